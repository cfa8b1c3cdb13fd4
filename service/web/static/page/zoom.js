/** Magnifies a picture within its frame. The enlarged picture is moved by dragging, by the wheel, or by the arrow keys. */

const MOST = 4;
const STEP = 0.5;

export class Zoom {
  /**
   * @param {HTMLElement} frame scrolls; keeps its size
   * @param {HTMLElement} sheet what is enlarged
   * @param {HTMLInputElement} slider from 100 to 400 percent
   */
  constructor(frame, sheet, slider) {
    Object.assign(this, { frame, sheet, slider });
    slider.addEventListener("input", () => this.apply());
    frame.addEventListener("pointermove", ({ buttons, movementX, movementY }) => buttons === 1 && frame.scrollBy({ left: -movementX, top: -movementY, behavior: "instant" }));
  }

  get factor() {
    return this.slider.value / 100;
  }

  step(by) {
    this.slider.value = 100 * Math.min(MOST, Math.max(1, this.factor + by * STEP));
    this.apply();
  }

  /** Enlarge the sheet around the middle of what is seen. */
  apply() {
    const { frame, sheet, factor } = this;
    const middle = [(frame.scrollLeft + frame.clientWidth / 2) / frame.scrollWidth, (frame.scrollTop + frame.clientHeight / 2) / frame.scrollHeight];
    sheet.style.inlineSize = `${100 * factor}%`;
    frame.tabIndex = factor > 1 ? 0 : -1; // so that the arrow keys scroll it
    frame.classList.toggle("is-enlarged", factor > 1);
    frame.scrollTo({ left: middle[0] * frame.scrollWidth - frame.clientWidth / 2, top: middle[1] * frame.scrollHeight - frame.clientHeight / 2, behavior: "instant" });
  }
}
