/** A list of strengths as text, the form of the API: "0.8, 1:0.5, -0.3". Nothing here knows of the page. */

/** @typedef {{model: number, clip: number}} Strength */

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/**
 * The strengths in a text, as the nodes read them; null when it is none.
 * @param {string} text
 * @returns {Strength[] | null}
 */
export function parse(text) {
  const entries = text.split(/[,;\n]/).map((entry) => entry.trim()).filter(Boolean);
  const pairs = entries.map((entry) => entry.split(":").map((part) => part.trim()));
  if (!pairs.every((pair) => pair.length <= 2 && pair.every((part) => NUMBER.test(part) && Number.isFinite(+part))))
    return null;
  return pairs.length ? pairs.map((pair) => ({ model: +pair[0], clip: +pair.at(-1) })) : [{ model: 1, clip: 1 }];
}

/**
 * @param {Strength[]} strengths
 * @returns {string}
 */
export const write = (strengths) =>
  strengths.map(({ model, clip }) => (model === clip ? `${model}` : `${model}:${clip}`)).join(", ");

/**
 * The strengths of so many LoRAs, a single one counting for all; null when they do not fit.
 * @param {string} text
 * @param {number} count
 * @returns {Strength[] | null}
 */
export function spread(text, count) {
  const found = parse(text);
  if (found?.length === 1) return Array.from({ length: count }, () => ({ ...found[0] }));
  return found?.length === count ? found : null;
}

/**
 * The text after LoRAs came, went or changed places; a LoRA in the place of another takes its strength.
 * @param {string} text
 * @param {unknown[]} before  What told the LoRAs apart.
 * @param {unknown[]} after
 * @returns {string}
 */
export function follow(text, before, after) {
  const known = spread(text, before.length);
  if (before.length && !after.length) return "1";
  if (!known?.length || (before.length > 1 && parse(text).length === 1)) return text;
  const same = before.length === after.length;
  return write(
    after.map((lora, at) => known[before.indexOf(lora)] ?? (same ? known[at] : { model: 1, clip: 1 })),
  );
}
