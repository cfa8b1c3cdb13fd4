/** What a person reads: confirmations and changes of class, sent one request after the other. */

import { json } from "../page/api.js";
import { route } from "./specimen.js";

/** Refusals after which the cells are read again: another person has read a cell, or removed it. */
const CHANGED = ["stale-revision", "unknown-specimen"];

export class Readings {
  /**
   * @param {Cells} cells
   * @param {object} page
   * @param {(places: number[]) => void} page.changed called when cells differ from what is shown
   * @param {(conflicts: object[]) => Promise<object[]>} page.merge asks which of two readings holds; the person's own
   * @param {(places: number[]) => void} page.removed called for cells that others removed before the reading
   * @param {(error: Error) => void} page.failed
   */
  constructor(cells, { changed, merge, removed, failed }) {
    Object.assign(this, { cells, changed, merge, removed, failed });
    this.past = []; // changes of this person, to be undone
    this.waiting = []; // readings that are not sent yet
    this.open = 0; // requests and actions that are not answered yet
    this.queue = Promise.resolve();
  }

  /** Read cells as of a class. It is shown at once and sent when earlier readings are answered. */
  read(cells, code, why) {
    const readings = cells.map((cell) => reading(cell, code ?? cell.code, why));
    const changes = readings.filter((each) => each.from !== each.code);
    if (changes.length) this.past.push(changes);
    this.enqueue(readings);
  }

  /** Take back the last change, where it still holds: a reading of the class that the cell had before. */
  undo(why) {
    const changes = this.past.pop() ?? [];
    const held = changes.filter(({ place, code }) => this.cells.byPlace.get(place)?.code === code);
    const readings = held.map(({ place, from }) => reading(this.cells.byPlace.get(place), from, why));
    if (readings.length) this.enqueue(readings);
    return readings.map(({ place }) => place);
  }

  enqueue(readings) {
    for (const { place, code } of readings) this.cells.byPlace.get(place).code = code;
    const places = readings.map(({ place }) => place);
    this.cells.hold(places);
    this.waiting.push(...readings);
    this.changed(places);
    this.after(() => this.send(this.take(readings))).then(() => this.release(places));
  }

  /** Run an action when earlier readings are answered; later ones wait for it. Its failure stops none of them. */
  after(action) {
    this.open += 1;
    this.queue = this.queue
      .then(action)
      .catch(this.failed)
      .finally(() => (this.open -= 1));
    return this.queue;
  }

  take(readings) {
    this.waiting = this.waiting.filter((each) => !readings.includes(each));
    return readings;
  }

  /** Send readings, each of the version that the person saw: a later one is another person's, which they did not see. */
  async send(readings) {
    try {
      this.takeAnswer(await json(route("/readings"), { data: { readings: readings.map(asRequest) } }));
    } catch (error) {
      if (!CHANGED.includes(error.kind)) throw error;
      await this.resolve(readings, error);
    }
  }

  takeAnswer({ revision, cells }) {
    const versions = new Map(cells.map(({ place, version }) => [place, version]));
    for (const each of this.waiting) each.version = versions.get(each.place) ?? each.version; // on top of the own reading
    this.cells.advance(revision);
    this.changed(this.cells.apply(cells));
  }

  /** Others have read or removed some of the cells: the person chooses between two readings, and the rest is sent again. */
  async resolve(sent, error) {
    this.changed(await this.cells.load());
    const gone = sent.filter(({ place }) => !this.cells.byPlace.has(place));
    const there = sent.filter((each) => !gone.includes(each));
    const stale = there.filter(({ place, version }) => this.cells.byPlace.get(place).version !== version);
    if (!gone.length && !stale.length) throw error;
    if (gone.length) this.removed(gone.map(({ place }) => place));
    const conflicts = stale.filter(({ place, code }) => this.cells.byPlace.get(place).said !== code);
    const own = conflicts.length ? await this.merge(conflicts) : [];
    const rest = [...there.filter((each) => !stale.includes(each)), ...own];
    if (rest.length) await this.send(rest);
  }

  /** Once readings are answered, show what the service has, unless a later reading of the cell is on its way. */
  release(places) {
    this.cells.free(places);
    this.changed(places);
  }
}

/** A reading of a cell as it is shown now. */
const reading = ({ place, version, code: from }, code, why) => ({ place, version, from, code, why });

/** A reading as the service takes it: a confirmation needs no reason. */
const asRequest = ({ place, version, from, code, why }) => ({ place, version, code, ...(code === from ? {} : { why }) });
