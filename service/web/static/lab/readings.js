/** What a person reads: confirmations and changes of class, sent one request after the other. */

import { json } from "../page/api.js";
import { route } from "./specimen.js";

export class Readings {
  /**
   * @param {Cells} cells
   * @param {object} page
   * @param {(places: number[]) => void} page.changed called when cells differ from what is shown
   * @param {(conflicts: object[]) => Promise<object[]>} page.merge asks which of two readings holds; the person's own
   * @param {(error: Error) => void} page.failed
   */
  constructor(cells, { changed, merge, failed }) {
    Object.assign(this, { cells, changed, merge, failed });
    this.past = []; // changes of this person, to be undone
    this.queue = Promise.resolve();
  }

  /** Read cells as of a class. It is shown at once and sent when earlier readings are answered. */
  read(cells, code, why) {
    const readings = cells.map((cell) => ({ place: cell.place, from: cell.code, code: code ?? cell.code, why }));
    const changes = readings.filter((each) => each.from !== each.code);
    if (changes.length) this.past.push(changes);
    return this.enqueue(readings);
  }

  /** Take back the last change: a reading of the class that the cell had before. */
  undo(why) {
    const changes = this.past.pop();
    if (!changes) return Promise.resolve([]);
    return this.enqueue(changes.map(({ place, from, code }) => ({ place, from: code, code: from, why })));
  }

  enqueue(readings) {
    for (const { place, code } of readings) this.cells.byPlace.get(place).code = code;
    const places = readings.map(({ place }) => place);
    this.cells.hold(places);
    this.changed(places);
    this.queue = this.queue.then(() => this.send(readings)).catch((error) => this.giveUp(places, error));
    return places;
  }

  async send(readings) {
    const sent = readings.map((each) => ({ ...each, version: this.cells.byPlace.get(each.place).version }));
    try {
      const answer = await json(route("/readings"), { data: { readings: sent.map((each) => this.asRequest(each)) } });
      this.cells.free(sent.map(({ place }) => place));
      this.cells.advance(answer.revision);
      this.changed(this.cells.apply(answer.cells));
    } catch (error) {
      if (error.kind !== "stale-revision") throw error;
      await this.resolve(sent);
    }
  }

  /** A reading as the service takes it: a confirmation needs no reason. */
  asRequest({ place, version, code, why }) {
    const isChange = code !== this.cells.byPlace.get(place).said;
    return { place, version, code, ...(isChange ? { why } : {}) };
  }

  /** Others have read some of the cells: theirs are shown beside the person's own, and the rest is sent again. */
  async resolve(sent) {
    const others = await this.cells.load();
    const stale = sent.filter(({ place, version }) => this.cells.byPlace.get(place).version !== version);
    const conflicts = stale.filter(({ place, code }) => this.cells.byPlace.get(place).said !== code);
    const own = conflicts.length ? await this.merge(conflicts) : [];
    const kept = new Set(own.map(({ place }) => place));
    const settled = stale.map(({ place }) => place).filter((place) => !kept.has(place));
    this.cells.free(settled);
    this.showSaid(settled);
    this.changed(others);
    const rest = [...sent.filter((each) => !stale.includes(each)), ...own];
    if (rest.length) await this.send(rest);
  }

  showSaid(places) {
    for (const place of places) {
      const cell = this.cells.byPlace.get(place);
      if (!this.cells.held.get(place)) cell.code = cell.said;
    }
    this.changed(places);
  }

  /** Show again what the service has. */
  giveUp(places, error) {
    this.cells.free(places);
    this.showSaid(places);
    this.failed(error);
  }
}
