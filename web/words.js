/** The words that our modules add to the editor, in its language. */

import { app } from "../../scripts/app.js";

const WORDS = {
  en: {
    report: "Report",
    panel: "LoRA Graft: reports of the last run",
    open: "Read the report",
    none: "After a run, the reports of LoRA Graft's nodes are here.",
    which: "Report of",
    map: "Heat map",
    show: "Show",
    "similarity beyond chance": "similarity beyond chance",
    "kept energy": "kept energy",
    hint: "Point at a cell to read its modules, click it for their rows.",
    more: (count) => `and ${count} more`,
    grey: "not measured",
    hatched: "left out",
    connect: "Connect LoRAs: each gets a slider here.",
    linked: "The strengths come from the connected text.",
    unfit: "Strengths, one for each LoRA:",
    strength: "strength",
    encoder: "text encoder",
    apart: "a strength of its own on the text encoder",
    about: "What this LoRA is",
    unknown: "unknown family",
    rank: (low, high) => (low === high ? `rank ${low}` : `ranks ${low} to ${high}`),
    triggers: (found) => `Trigger words: ${found}`,
    silent: "No trigger words in the file",
    wrong: (base, family) => `Not for the connected base ${base} (${family})`,
  },
  zh: {
    report: "报告",
    panel: "LoRA Graft：上次运行的报告",
    open: "查看报告",
    none: "运行之后，LoRA Graft 各节点的报告显示在这里。",
    which: "报告来自",
    map: "热力图",
    show: "显示",
    "similarity beyond chance": "高于随机水平的相似度",
    "kept energy": "保留的能量",
    hint: "指向一个格子可以查看其中的模块，点击则跳到它们所在的行。",
    more: (count) => `另有 ${count} 个`,
    grey: "未测量",
    hatched: "舍弃",
    connect: "连接 LoRA 后，每个 LoRA 在这里有一个滑块。",
    linked: "强度来自所连接的文本。",
    unfit: "强度，每个 LoRA 一个：",
    strength: "强度",
    encoder: "文本编码器",
    apart: "文本编码器单独的强度",
    about: "这个 LoRA 的信息",
    unknown: "未知系列",
    rank: (low, high) => (low === high ? `秩 ${low}` : `秩 ${low} 到 ${high}`),
    triggers: (found) => `触发词：${found}`,
    silent: "文件中没有触发词",
    wrong: (base, family) => `不适用于所连接的底模 ${base}（${family}）`,
  },
};

/** @returns {typeof WORDS.en} */
export function words() {
  const locale = app.extensionManager?.setting?.get("Comfy.Locale") ?? navigator.language;
  return WORDS[String(locale).split("-")[0]] ?? WORDS.en;
}
