/**
 * The part of Markdown that our reports use, read into plain data. Nothing here knows of the page.
 *
 * @typedef {{code: boolean, text: string}} Piece  A run of text, as code or not.
 * @typedef {{kind: "heading", level: number, pieces: Piece[]}} Heading
 * @typedef {{kind: "text" | "item", pieces: Piece[]}} Text
 * @typedef {{kind: "table", head: Piece[][], rows: Piece[][][]}} Table
 * @typedef {Heading | Text | Table} Block
 */

const RULE = /^\|(\s*:?-+:?\s*\|)+$/;
const HEADING = /^(#{1,6}) (.*)$/;

/**
 * Whether a text is a report: it has a heading, or a table.
 * @param {string} text
 * @returns {boolean}
 */
export function isReport(text) {
  return text.split("\n").some((line) => HEADING.test(line) || RULE.test(line));
}

/**
 * A line of text as runs: code spans apart, escapes taken back.
 * @param {string} text
 * @returns {Piece[]}
 */
export function inline(text) {
  return [...text.matchAll(/`([^`]+)`|((?:\\.|[^`\\])+|[`\\])/gs)].map(([, code, plain]) =>
    code === undefined
      ? { code: false, text: plain.replace(/\\([!-/:-@[-`{-~])/g, "$1") }
      : { code: true, text: code.replaceAll("\\|", "|") },
  );
}

/**
 * The cells of a table's line. A bar after a backslash belongs to its cell.
 * @param {string} line
 * @returns {Piece[][]}
 */
export function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return [...`${inner}|`.matchAll(/((?:\\.|[^|\\])*)\|/gs)].map(([, cell]) => inline(cell.trim()));
}

/**
 * A report as blocks, in order.
 * @param {string} text
 * @returns {Block[]}
 */
export function parse(text) {
  const lines = text.split("\n");
  /** @type {Block[]} */
  const blocks = [];
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at];
    const heading = HEADING.exec(line);
    if (!line.trim()) continue;
    if (heading) blocks.push({ kind: "heading", level: heading[1].length, pieces: inline(heading[2]) });
    else if (line.startsWith("- ")) blocks.push({ kind: "item", pieces: inline(line.slice(2)) });
    else if (line.startsWith("|") && RULE.test((lines[at + 1] ?? "").trim())) {
      const rows = [];
      const head = cells(line);
      for (at += 2; lines[at]?.startsWith("|"); at++) rows.push(cells(lines[at]));
      at--;
      blocks.push({ kind: "table", head, rows });
    } else blocks.push({ kind: "text", pieces: inline(line) });
  }
  return blocks;
}
