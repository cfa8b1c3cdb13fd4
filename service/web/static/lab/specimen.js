/** The specimen of the page: its address, its data, and the head that shows them. */

import { json } from "../page/api.js";
import { byId, element } from "../page/element.js";
import { poll } from "../page/polling.js";
import { text } from "../page/texts.js";
import { patientData, patientName, stateChip } from "./patient.js";
import { Presence } from "./presence.js";

const POLL_S = 2;
const id = document.documentElement.dataset.specimen;

/** The address of a route below the specimen. */
export const route = (rest = "") => `specimens/${id}${rest}`;

export const loadSpecimen = (options = {}) => json(route(), options);

/**
 * Watch for changes by others. Only a change reads the specimen again, so that waiting is no read of patient data.
 *
 * @param {() => object} current the specimen as it is shown
 * @param {(specimen: object) => Promise<void>} changed called with the specimen after a change
 * @param {{look?: () => object, present?: (others: object[]) => void}} [person] what this person looks at, and who else
 *   is there
 */
export function watch(current, changed, { look = () => ({}), present = () => {} } = {}) {
  let delivery; // as it was last seen
  const presence = new Presence(route("/presence"), look, present);
  poll(async (options) => {
    await presence.announce(options).catch(() => {}); // it is announced again in 10 s
    const found = await json(route("/revision"), options);
    presence.show(found.present);
    const isSame = found.revision === current().revision && found.delivery === delivery;
    if (!isSame) await changed(await loadSpecimen(options));
    delivery = found.delivery;
  }, POLL_S);
}

/** Show whose specimen it is and how far it is. */
export function showHead(specimen) {
  const { differential } = specimen;
  document.title = `${specimen.number} · marrowlens`;
  byId("specimen-number").textContent = specimen.number;
  byId("specimen-state").replaceChildren(stateChip(specimen.state));
  byId("specimen-patient").textContent = patientName(specimen.patient);
  byId("specimen-data").textContent = patientData(specimen);
  byId("target").max = differential.target_cells;
  byId("target").value = Math.min(differential.counted, differential.target_cells);
  const words = [text("specimen.counted", { counted: differential.counted, target: differential.target_cells })];
  if (differential.waiting_review) words.push(text("specimen.waiting", { count: differential.waiting_review }));
  byId("target-words").replaceChildren(...words.map((each) => element("span", {}, each)));
}

/** Whether cells can be added and read. */
export const isOpen = ({ state }) => state === "open" || state === "amending";

