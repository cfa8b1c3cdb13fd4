/** The detail view of one cell: its picture with overlays, all classes, and the reasons in words. */

import { json, Problem } from "./api.js";
import { byId, element, hiddenText } from "./element.js";
import { clear, drawAttention, drawEvidence, evidenceReach } from "./overlay.js";
import { className, percent, precisePercent, text } from "./texts.js";
import { Zoom } from "./zoom.js";

const layers = byId("detail-layers");
const canvas = byId("detail-overlay");

export class CellDetail {
  /**
   * @param {object} options
   * @param {(cell: object) => {title: string, name: string, url: string, facts: Node[]}} options.describe or a promise of it
   * @param {(cell: object) => Promise<object>} options.maps the answer of `/classify` with attention and evidence
   * @param {(cell: object) => void} options.closed gets the cell that was last shown
   * @param {(cell: object, code: string) => void} [options.considered] gets the class whose evidence is chosen
   */
  constructor({ describe, maps, closed, considered = () => {} }) {
    Object.assign(this, { describe, maps, considered });
    this.dialog = byId("detail");
    this.map = "evidence";
    this.answers = new WeakMap();
    byId("detail-back").addEventListener("click", () => this.step(-1));
    byId("detail-next").addEventListener("click", () => this.step(1));
    byId("detail-close").addEventListener("click", () => this.dialog.close());
    byId("detail-opacity").addEventListener("input", () => this.applyOpacity());
    byId("detail-maps").addEventListener("change", (event) => this.choose(event.target.value));
    this.zoom = new Zoom(layers, byId("detail-sheet"), byId("detail-zoom"));
    byId("detail-picture").addEventListener("error", () => layers.classList.add("has-no-picture"));
    byId("detail-picture").addEventListener("load", ({ target }) => (layers.style.aspectRatio = `${target.naturalWidth} / ${target.naturalHeight}`));
    this.dialog.addEventListener("keydown", (event) => this.pressed(event));
    this.dialog.addEventListener("close", () => closed(this.cell));
  }

  /** Open the view of a cell; the arrow keys step through `cells`. */
  async open(cell, cells) {
    this.cells = cells.filter((each) => each.result);
    if (!this.dialog.open) this.dialog.showModal();
    this.applyOpacity();
    await this.show(cell);
  }

  async step(by) {
    const to = this.cells[this.cells.indexOf(this.cell) + by];
    if (to) await this.show(to);
  }

  async show(cell) {
    this.cell = cell;
    this.code = cell.result.prediction.code;
    const { title, name, url, facts } = await this.describe(cell);
    if (cell !== this.cell) return;
    byId("detail-title").textContent = title;
    byId("detail-name").textContent = name;
    byId("detail-words").replaceChildren(...facts);
    layers.classList.toggle("has-no-picture", !url);
    byId("detail-picture").src = url || "data:,";
    const at = this.cells.indexOf(cell);
    byId("detail-position").textContent = `${at + 1} / ${this.cells.length}`;
    // Not `disabled`: a button that is disabled while it has the focus loses the keyboard.
    byId("detail-back").ariaDisabled = at === 0;
    byId("detail-next").ariaDisabled = at === this.cells.length - 1;
    this.drawBars();
    this.considered(cell, this.code);
    await this.load(cell);
  }

  /** Fetch the maps of a cell once, and draw them if it is still the one shown. */
  async load(cell) {
    clear(canvas);
    let answer = this.answers.get(cell);
    if (!answer) {
      byId("detail-caption").textContent = text("overlay.loading");
      try {
        answer = await this.maps(cell);
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        if (cell === this.cell) byId("detail-caption").textContent = error.message;
        return;
      }
      this.answers.set(cell, answer);
    }
    if (cell !== this.cell) return;
    this.drawChoices(answer);
    this.drawMap();
    this.drawBars();
  }

  choose(map, code = this.cell.result.prediction.code) {
    this.map = map;
    this.code = code;
    const radio = byId("detail-maps").querySelector(`input[value="${CSS.escape(map)}"]`);
    if (radio) radio.checked = true;
    this.drawMap();
    this.drawBars();
    this.considered(this.cell, this.code);
  }

  drawChoices(answer) {
    const scales = (answer.attention?.scales ?? []).map(({ kernel }) => kernel);
    this.choices = ["none", "evidence", ...scales];
    if (!this.choices.includes(this.map)) this.map = "evidence";
    const segments = this.choices.map((choice) => this.choice(choice, scales.includes(choice)));
    if (scales.length) segments.splice(2, 0, element("span", { class: "segment-name", "aria-hidden": "true" }, text("overlay.attention.short")));
    const fieldset = byId("detail-maps");
    const hadFocus = fieldset.contains(document.activeElement);
    fieldset.replaceChildren(fieldset.querySelector("legend"), ...segments);
    if (hadFocus) fieldset.querySelector("input:checked").focus();
  }

  choice(choice, isScale) {
    return element(
      "label",
      { class: "segment", title: isScale ? text("overlay.attention", { kernel: choice }) : null },
      element("input", { type: "radio", name: "map", value: choice, checked: choice === this.map }),
      element("span", {}, isScale ? [hiddenText(text("overlay.attention", { kernel: "" })), choice] : text(`overlay.${choice}`)),
    );
  }

  drawMap() {
    const answer = this.answers.get(this.cell);
    if (!answer) return;
    clear(canvas);
    const evidence = answer.evidence.find(({ code }) => code === this.code);
    const scale = answer.attention?.scales.find(({ kernel }) => kernel === this.map);
    if (this.map === "evidence" && evidence) drawEvidence(canvas, evidence.values, evidenceReach(answer.evidence));
    if (scale) drawAttention(canvas, scale.values);
    byId("detail-caption").textContent = this.caption(evidence, scale);
    byId("detail-caption").dataset.map = scale ? "attention" : this.map;
  }

  caption(evidence, scale) {
    if (scale) return text("overlay.attention.words", { kernel: scale.kernel, ...strongest(scale.values) });
    if (this.map !== "evidence" || !evidence) return text("overlay.none.words");
    return text("overlay.evidence.words", { class: className(evidence.code), ...strongest(evidence.values) });
  }

  /** All classes, the most probable first. Choosing one shows the evidence for it. */
  drawBars() {
    const { probabilities, prediction } = this.cell.result;
    const rows = Object.entries(probabilities).sort(([, one], [, other]) => other - one);
    const focused = document.activeElement?.closest("#detail-bars [data-code]")?.dataset.code;
    byId("detail-bars").replaceChildren(...rows.map(([code, share]) => this.bar(code, share, prediction.set ?? [])));
    if (focused) byId("detail-bars").querySelector(`[data-code="${CSS.escape(focused)}"]`)?.focus();
  }

  bar(code, share, set) {
    const filled = element("span");
    filled.style.inlineSize = `${100 * share}%`;
    const isIn = set.includes(code);
    const value = share >= 0.1 ? percent(share) : precisePercent(share);
    return element(
      "li",
      { class: isIn ? "is-in-set" : null },
      element(
        "button",
        {
          type: "button",
          "data-code": code,
          "aria-pressed": String(this.map === "evidence" && code === this.code),
          title: text("overlay.evidence.show", { class: className(code) }),
          onclick: () => this.choose("evidence", code),
        },
        element("span", { class: "bar-name" }, className(code), element("span", { class: "code" }, ` ${code}`)),
        element("span", { class: "meter" }, filled),
        element("span", { class: "bar-value" }, value),
        element("span", { class: "visually-hidden" }, isIn && text("detail.in-set")),
      ),
    );
  }

  applyOpacity() {
    canvas.style.opacity = byId("detail-opacity").value / 100;
  }

  pressed(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const takesArrows = event.target.matches("input, select, textarea, .is-enlarged");
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const zoom = { "-": -1, "+": 1 }[event.key];
    if (step && !takesArrows) this.step(step);
    else if (zoom) this.zoom.step(zoom);
    else if (/^[0-9]$/.test(event.key) && !event.target.matches("input:not([type=radio], [type=range]), textarea, select")) {
      const choice = this.choices?.[Number(event.key)];
      if (choice) this.choose(choice);
    } else return;
    event.preventDefault();
  }
}

/** Maps of one picture for the detail view: evidence of every class, and attention where the model has it. */
export async function requestMaps(picture, hasAttention) {
  const form = new FormData();
  form.append("image", picture, "cell");
  const maps = hasAttention ? "attention,evidence" : "evidence";
  return json(`classify?maps=${maps}&top_k=1000`, { method: "POST", body: form });
}

/** Where a map is strongest: the middle of that square, from the left and the top edge. */
function strongest(rows) {
  const values = rows.flat();
  const at = values.indexOf(Math.max(...values));
  const [row, column] = [Math.floor(at / rows[0].length), at % rows[0].length];
  return { x: percent((column + 0.5) / rows[0].length), y: percent((row + 0.5) / rows.length) };
}
