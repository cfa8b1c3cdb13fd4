/** All classes beside the gallery, with their keys and counts. A click or a drop gives the chosen cells a class. */

import { byId, element } from "../page/element.js";
import { className, number, oneDigit, text } from "../page/texts.js";

export class Palette {
  /**
   * @param {object[]} classes of `GET /classes`
   * @param {Map<string, string>} keys
   * @param {(code: string) => void} give
   */
  constructor(classes, keys, give) {
    this.rows = new Map(classes.map((each) => [each.code, row(each, keys.get(each.code), () => give(each.code))]));
    byId("palette").replaceChildren(...[...this.rows.values()].map(({ node }) => node));
  }

  /** Show how many cells each class has, and the percentages of the differential. */
  update(cells, { classes }) {
    const percents = new Map(classes.map(({ code, percent }) => [code, percent]));
    const counts = {};
    for (const { code } of cells) counts[code] = (counts[code] ?? 0) + 1;
    for (const [code, { node, count, share, filled }] of this.rows) {
      const percent = percents.get(code);
      node.classList.toggle("is-empty", !counts[code]);
      count.textContent = number(counts[code] ?? 0);
      share.textContent = counts[code] && percent !== undefined ? oneDigit(percent) : "";
      filled.style.inlineSize = `${percent ?? 0}%`;
    }
  }
}

function row({ code, name, supported }, key, give) {
  const [count, share, filled] = [element("b"), element("span", { class: "palette-share" }), element("span")];
  const button = element(
    "button",
    {
      type: "button",
      "data-code": code,
      title: text("review.give", { class: className(code, name) }),
      onclick: give,
      ondragover: (event) => {
        if (!event.dataTransfer.types.includes("application/x-cells")) return;
        event.preventDefault();
        button.classList.add("is-target");
      },
      ondragleave: () => button.classList.remove("is-target"),
      ondrop: (event) => {
        event.preventDefault();
        button.classList.remove("is-target");
        give();
      },
    },
    element("kbd", {}, (key ?? "").toUpperCase()),
    element("span", { class: "palette-name" }, className(code, name), !supported && element("span", { class: "unsupported", title: text("class.unsupported") }, " *")),
    count,
    share,
    element("span", { class: "meter" }, filled),
  );
  return { node: element("li", {}, button), count, share, filled };
}
