/** What is to be said about files, by kind: a few lines are shown, many are counted and folded. */

import { element } from "../page/element.js";
import { text } from "../page/texts.js";

const MOST_OPEN = 3;

export class Notices {
  /** @param {HTMLElement} box hidden while there is nothing to say */
  constructor(box) {
    this.box = box;
    this.kinds = new Map(); // title → its folded list
  }

  /**
   * @param {string} title of the kind
   * @param {string} name of the file
   * @param {...(string | Node)} words about this file
   */
  add(title, name, ...words) {
    const kind = this.kind(title);
    kind.list.append(element("li", {}, element("b", {}, element("bdi", {}, name)), " ", ...words));
    const count = kind.list.childElementCount;
    kind.summary.textContent = text("notices.kind", { title, count });
    kind.details.open = count <= MOST_OPEN;
    this.box.hidden = false;
  }

  kind(title) {
    if (!this.kinds.has(title)) {
      const [summary, list] = [element("summary"), element("ul")];
      const details = element("details", {}, summary, list);
      this.kinds.set(title, { summary, list, details });
      this.box.append(details);
    }
    return this.kinds.get(title);
  }

  clear() {
    this.kinds.clear();
    this.box.replaceChildren();
    this.box.hidden = true;
  }
}
