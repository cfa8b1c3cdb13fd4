/** The cells of the specimen, as the service last said. */

import { json } from "../page/api.js";
import { route } from "./specimen.js";

const PAGE = 1000;

export class Cells {
  constructor() {
    this.byPlace = new Map();
    this.revision = 0; // of the specimen, up to which all cells are known
    this.held = new Map(); // place → readings on their way, during which the person's class is shown
  }

  hold(places) {
    for (const place of places) this.held.set(place, (this.held.get(place) ?? 0) + 1);
  }

  /** Cells without a reading on its way show what the service said last. */
  free(places) {
    for (const place of places) {
      this.held.set(place, this.held.get(place) - 1);
      const cell = this.byPlace.get(place);
      if (cell && !this.held.get(place)) cell.code = cell.said;
    }
  }

  get all() {
    return [...this.byPlace.values()];
  }

  /** After an own change: a later revision than the next one holds changes of others that are not known yet. */
  advance(revision) {
    if (revision === this.revision + 1) this.revision = revision;
  }

  /**
   * Read all cells again; the places of those that are new, have changed or are gone.
   *
   * @param {number} revision of the specimen, known before the cells are read
   */
  async load(revision = this.revision) {
    const said = [];
    for (let after = 0; after !== undefined; ) {
      const page = await json(route(`/cells?limit=${PAGE}&after=${after}`));
      said.push(...page.cells);
      after = page.next;
    }
    const there = new Set(said.map(({ place }) => place));
    const gone = [...this.byPlace.keys()].filter((place) => !there.has(place));
    for (const place of gone) this.byPlace.delete(place);
    this.revision = revision;
    return [...gone, ...this.apply(said)];
  }

  /**
   * Take cells as the service has said; the places of those that differ from what was known. An answer may be older
   * than the one before, when two requests overtake each other: versions only increase.
   */
  apply(said) {
    const changed = said.filter(({ place, version, waits }) => {
      const known = this.byPlace.get(place);
      if (!known || version > known.version) return true;
      return version === known.version && (known.waits !== waits || known.code !== known.said);
    });
    for (const cell of changed) {
      const known = this.byPlace.get(cell.place) ?? {};
      const own = this.held.get(cell.place) ? { code: known.code } : {};
      this.byPlace.set(cell.place, Object.assign(known, ABSENT, cell, { said: cell.code, result: suggestion(cell) }, own));
    }
    return changed.map(({ place }) => place);
  }
}

/** Fields that the service leaves out if they do not apply. */
const ABSENT = { key: undefined, read_by: undefined, read_at: undefined };

/** What the model suggested, in the form of an answer of `/classify`. */
function suggestion({ suggested, probability, top, decision, reasons, prediction_set: set }) {
  return {
    prediction: { code: suggested, probability, supported: true, set },
    decision,
    reasons,
    probabilities: Object.fromEntries(top.map((each) => [each.code, each.probability])),
  };
}

export const isNovel = ({ reasons }) => (reasons ?? []).some(({ code }) => code === "novel");
export const isRead = ({ read_by: reader }) => reader !== undefined;
export const isChanged = ({ code, suggested }) => code !== suggested;

/** Cells that need a person most come first: waiting, then unlike learned cells, then improbable; read ones last. */
export const ORDERS = {
  doubtful: (one, other) =>
    isRead(one) - isRead(other) ||
    other.waits - one.waits ||
    isNovel(other) - isNovel(one) ||
    one.probability - other.probability,
  class: (one, other) => one.code.localeCompare(other.code) || one.probability - other.probability,
  added: (one, other) => one.place - other.place,
};
