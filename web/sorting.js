/** The order of a table's rows. */

/**
 * A cell's number, if it is one; a percent sign and spaces between digits may stand in it.
 * @param {string} text
 * @returns {number | null}
 */
export function number(text) {
  const bare = text.replace(/[\s%,]/g, "");
  return bare && Number.isFinite(Number(bare)) ? Number(bare) : null;
}

/**
 * How two cells compare: numbers by size and before words, words by the alphabet.
 * @param {string} one
 * @param {string} other
 * @returns {number}
 */
export function compare(one, other) {
  const [a, b] = [number(one), number(other)];
  if (a !== null && b !== null) return a - b;
  if (a !== null || b !== null) return a !== null ? -1 : 1;
  return one.localeCompare(other, undefined, { numeric: true });
}
