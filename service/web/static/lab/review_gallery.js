/** The gallery of a specimen: filters, order, one grid or one for each class, and the cells that are chosen. */

import { arrange, byId, element } from "../page/element.js";
import { makeTabStop, moveByArrows } from "../page/roving.js";
import { className, number, text } from "../page/texts.js";
import { CellTile } from "./cell_tile.js";
import { isChanged, isRead, ORDERS } from "./cells.js";

const BODY = ".tile-body";
const ONLY = { all: () => true, waiting: ({ waits }) => waits, unread: (cell) => !isRead(cell), changed: isChanged };

export class ReviewGallery {
  /**
   * @param {Cells} cells
   * @param {object} page
   * @param {(cell: object) => void} page.open
   * @param {() => void} page.chosen called when other cells are chosen
   * @param {(code: string) => void} page.confirmClass
   */
  constructor(cells, { open, chosen, confirmClass }) {
    Object.assign(this, { cells, open, chosen, confirmClass });
    this.list = byId("gallery");
    this.form = byId("filters");
    this.tiles = new Map();
    this.order = []; // places; kept while cells are read, so that they do not move under the hand
    this.selected = new Set();
    this.last = null; // the cell that a range begins with
    this.people = new Map(); // place → names of others who look at the cell
    moveByArrows(this.list, BODY);
    this.form.addEventListener("change", () => this.sort());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    byId("size").addEventListener("input", () => this.resize());
    byId("brightness").addEventListener("input", brighten);
    this.resize();
    brighten();
  }

  get filters() {
    const { only, sort, layout, decision } = this.form.elements;
    return { only: only.value, sort: sort.value, layout: layout.value, decision: decision.value, code: byId("filter-class").value };
  }

  /** The cells that pass the filters, as shown. */
  get shown() {
    const { only, code, decision } = this.filters;
    const all = this.order.map((place) => this.cells.byPlace.get(place));
    const isOf = (cell) => (!code || cell.code === code) && (!decision || (cell.decision ?? "none") === decision);
    return all.filter((cell) => cell && ONLY[only](cell) && isOf(cell));
  }

  /** The cells that an action is for: the chosen ones, else the one with the focus. */
  get targets() {
    if (this.selected.size) return this.shown.filter(({ place }) => this.selected.has(place));
    return this.place ? [this.cells.byPlace.get(this.place)] : [];
  }

  resize() {
    this.list.style.setProperty("--tile", `${byId("size").value}px`);
  }

  /** Order all cells anew. */
  sort() {
    this.order = this.sorted(this.cells.all);
    this.draw();
  }

  /** The places of cells in the chosen order. */
  sorted(cells) {
    const by = ORDERS[this.filters.sort];
    return cells.sort((one, other) => by(one, other) || one.place - other.place).map(({ place }) => place);
  }

  /** Whether the person is at a cell, so that none may move. */
  get isInUse() {
    return this.selected.size > 0 || this.place !== undefined || byId("detail").open;
  }

  /** Draw the cells at these places anew; new ones come last. */
  update(places) {
    const known = new Set(this.order);
    const added = places.filter((place) => !known.has(place) && this.cells.byPlace.has(place));
    this.order.push(...this.sorted(added.map((place) => this.cells.byPlace.get(place))));
    for (const place of places) this.tiles.get(place)?.update();
    this.draw();
  }

  tile(cell) {
    if (!this.tiles.has(cell.place)) {
      this.tiles.set(
        cell.place,
        new CellTile(cell, {
          choose: (each, event) => this.choose(each, event),
          open: (each) => this.open(each, this.shown),
          drag: (each, event) => this.drag(each, event),
        }),
      );
      this.tiles.get(cell.place).showPeople(this.people.get(cell.place));
    }
    return this.tiles.get(cell.place);
  }

  /** The place of the cell that the keyboard is at. */
  get place() {
    return Number(document.activeElement?.closest(".tile")?.dataset.place) || undefined;
  }

  /** Show on the tiles who else looks at their cells. */
  showPeople(others) {
    const before = this.people;
    this.people = new Map([...Map.groupBy(others.filter(({ place }) => place), ({ place }) => place)].map(([place, all]) => [place, all.map(({ name }) => name)]));
    for (const place of new Set([...before.keys(), ...this.people.keys()])) this.tiles.get(place)?.showPeople(this.people.get(place));
  }

  draw() {
    const shown = this.shown;
    const focused = document.activeElement?.closest(".tile")?.dataset.place;
    const sections = this.filters.layout === "classes" ? byClass(shown) : [[null, shown]];
    const wanted = sections.map(([code, cells]) => this.section(code, cells));
    arrange(this.list, wanted);
    const places = new Set(shown.map(({ place }) => place));
    for (const place of this.selected) if (!places.has(place)) this.select(place, false);
    if (focused && document.activeElement === document.body) this.focus(Number(focused));
    makeTabStop(this.list, BODY);
    this.drawCounts();
    this.chosen();
  }

  section(code, cells) {
    const key = code ?? "";
    this.sections ??= new Map();
    if (!this.sections.has(key)) this.sections.set(key, this.newSection(code));
    const { node, list, count, button } = this.sections.get(key);
    arrange(list, cells.map((cell) => this.tile(cell).node));
    if (count) count.textContent = number(cells.length);
    if (button) button.hidden = cells.every(isRead);
    return node;
  }

  newSection(code) {
    const list = element("ul", { class: "gallery" });
    if (code === null) return { node: list, list };
    const count = element("b");
    const button = element("button", { type: "button", class: "small", onclick: () => this.confirmClass(code) }, text("review.confirm.class"));
    const head = element("div", { class: "class-head" }, element("h3", {}, className(code), " ", element("span", { class: "code" }, code), " ", count), button);
    return { node: element("section", { class: "class-section", "aria-label": className(code) }, head, list), list, count, button };
  }

  drawCounts() {
    const all = this.cells.all;
    for (const node of this.form.querySelectorAll("[data-count]")) {
      node.textContent = number(all.filter(ONLY[node.dataset.count]).length);
    }
    byId("gallery-empty").hidden = this.shown.length > 0;
    byId("gallery-empty").textContent = text(all.length ? "gallery.none" : "review.empty");
  }

  /** A click chooses one cell; with Ctrl or by touch it adds one, with Shift all up to it. */
  choose(cell, event) {
    if (event.shiftKey && this.last !== null) this.selectRange(cell);
    else if (event.ctrlKey || event.metaKey || event.pointerType === "touch") this.select(cell.place, !this.selected.has(cell.place));
    else {
      const isOnly = this.selected.size === 1 && this.selected.has(cell.place);
      this.selectNone();
      this.select(cell.place, !isOnly);
    }
    if (!event.shiftKey) this.last = cell.place;
    this.chosen();
  }

  toggle(cell) {
    this.select(cell.place, !this.selected.has(cell.place));
    this.last = cell.place;
    this.chosen();
  }

  selectRange(cell) {
    const places = [...this.list.querySelectorAll(".tile")].map((tile) => Number(tile.dataset.place));
    const [from, to] = [places.indexOf(this.last), places.indexOf(cell.place)].sort((one, other) => one - other);
    for (const place of places.slice(Math.max(0, from), to + 1)) this.select(place, true);
  }

  selectAll() {
    for (const { place } of this.shown) this.select(place, true);
    this.chosen();
  }

  selectNone() {
    for (const place of [...this.selected]) this.select(place, false);
    this.chosen();
  }

  select(place, isSelected) {
    this.selected[isSelected ? "add" : "delete"](place);
    this.tiles.get(place)?.choose(isSelected);
  }

  /** Dragging a chosen cell drags all chosen ones. */
  drag(cell, event) {
    if (!this.selected.has(cell.place)) {
      this.selectNone();
      this.select(cell.place, true);
      this.chosen();
    }
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("application/x-cells", String(this.selected.size));
  }

  focus(place) {
    this.tiles.get(place)?.body.focus();
  }

  /** The place of the cell after this one, as shown; of the one before it if it is the last. */
  after(place) {
    const places = [...this.list.querySelectorAll(".tile")].map((tile) => Number(tile.dataset.place));
    const at = places.indexOf(place);
    return places[at + 1] ?? places[at - 1];
  }
}

/** Brighten or darken the pictures of all cells, also in the views of single ones; reference cells stay as they are. */
function brighten() {
  document.documentElement.style.setProperty("--brightness", `${byId("brightness").value}%`);
}

function byClass(cells) {
  const groups = Map.groupBy(cells, ({ code }) => code);
  return [...groups].sort(([one], [other]) => className(one).localeCompare(className(other)));
}
