/** A patient and the state of a specimen in words. */

import { element } from "../page/element.js";
import { day, dateTime, isolated, text, textOr } from "../page/texts.js";

const namesOf = ({ family, given }) => [family, given].filter(Boolean).join(", ");

/** "Muster, Erika", or the patient's number if no name is known. */
export const patientName = (patient) => namesOf(patient) || patient.identifier;

/** Number, unless it stands in place of the name, date of birth, sex and collection time in one line. */
export function patientData({ patient, collected_at: collected, order }) {
  const { identifier, authority, birth_date: born, sex } = patient;
  return [
    namesOf(patient) ? [isolated(identifier), authority && `(${isolated(authority)})`].filter(Boolean).join(" ") : authority && isolated(authority),
    born && text("patient.born", { day: day(born) }),
    sex && textOr(`sex.${sex}`, sex),
    order?.placer_number && text("specimen.order", { number: order.placer_number }),
    collected && text("specimen.collected", { time: dateTime(collected) }),
  ]
    .filter(Boolean)
    .join(" · ");
}

export const stateChip = (state) => element("span", { class: `chip state-${state}` }, text(`state.${state}`));
