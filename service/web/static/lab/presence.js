/** Who else has this specimen open, and what they look at. This page says the same of its own person. */

import { request } from "../page/api.js";
import { byId, element } from "../page/element.js";
import { person } from "../page/person.js";
import { className, text } from "../page/texts.js";

/** The service takes a page for closed that is silent for 30 s. */
const REPEAT_MS = 10_000;
const page = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

export class Presence {
  /**
   * @param {string} route where the specimen's pages are announced
   * @param {() => {place?: number, code?: string}} look what the person looks at now
   * @param {(others: object[]) => void} changed called with those who are present, when they or what they see change
   */
  constructor(route, look, changed) {
    Object.assign(this, { path: `${route}/${page}`, look, changed });
    [this.said, this.saidAt, this.seen] = ["", 0, "[]"];
    addEventListener("pagehide", () => this.leave());
  }

  /** Say that the page is open, if it looks at something else than before or was silent for long. */
  async announce(options) {
    const look = JSON.stringify(this.look());
    if (person.isUnverified && !person.name) return;
    if (look === this.said && Date.now() - this.saidAt < REPEAT_MS) return;
    [this.said, this.saidAt] = [look, Date.now()];
    await request(this.path, { method: "PUT", body: look, headers: { "Content-Type": "application/json" }, ...options });
  }

  /** @param {object[]} present as the service says, with this page */
  show(present) {
    const others = present.filter((each) => each.page !== page);
    const seen = JSON.stringify(others);
    if (seen === this.seen) return;
    this.seen = seen;
    byId("present").hidden = !others.length;
    byId("present-list").replaceChildren(...others.map((each) => element("li", { class: "chip chip-present" }, words(each))));
    this.changed(others);
  }

  leave() {
    if (!this.saidAt) return;
    this.saidAt = 0; // a page that is shown again, from the browser's memory, speaks again
    request(this.path, { method: "DELETE", isBackground: true, keepalive: true }).catch(() => {}); // silence closes it too
  }
}

function words({ name, place, code }) {
  if (place) return text("present.place", { name, place });
  return code ? text("present.class", { name, class: className(code) }) : name;
}
