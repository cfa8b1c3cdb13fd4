/** Keyboard movement in a gallery: one tab stop, arrow keys move between the tiles, Home and End to the ends. */

/**
 * @param {HTMLElement} gallery
 * @param {string} selector of what takes the focus in each tile
 */
export function moveByArrows(gallery, selector) {
  gallery.addEventListener("keydown", (event) => {
    const tiles = [...gallery.querySelectorAll(selector)];
    const at = tiles.indexOf(document.activeElement);
    const to = at < 0 ? undefined : target(event.key, at, tiles);
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    tiles[to].focus();
  });
  gallery.addEventListener("focusin", (event) => {
    const tile = event.target.closest(selector);
    if (tile) makeTabStop(gallery, selector, tile);
  });
}

/** Make one tile the gallery's tab stop: the given one, or the first if none is. */
export function makeTabStop(gallery, selector, tile) {
  const now = gallery.querySelectorAll(`${selector}[tabindex="0"]`);
  if (!tile && now.length === 1) return;
  now.forEach((each) => each.setAttribute("tabindex", "-1"));
  (tile ?? gallery.querySelector(selector))?.setAttribute("tabindex", "0");
}

function target(key, at, tiles) {
  const last = tiles.length - 1;
  const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -at, End: last - at };
  if (key in steps) return Math.min(last, Math.max(0, at + steps[key]));
  if (key === "ArrowUp" || key === "ArrowDown") return inNextRow(tiles, at, key === "ArrowDown" ? 1 : -1);
  return undefined;
}

/** The tile above or below, by its place on the screen. */
function inNextRow(tiles, at, direction) {
  const from = tiles[at].getBoundingClientRect();
  for (let to = at + direction; tiles[to]; to += direction) {
    const box = tiles[to].getBoundingClientRect();
    if (box.top !== from.top && Math.abs(box.left - from.left) < box.width / 2) return to;
  }
  return at;
}
