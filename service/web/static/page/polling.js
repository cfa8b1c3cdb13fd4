/** Asks again at intervals while a person is at the page. */

/** Without input for so long nobody is there: the page asks no more, so that an unattended session ends. */
const ATTENDED_MS = 5 * 60_000;

let lastInput = Date.now();
for (const event of ["pointermove", "pointerdown", "keydown"]) {
  document.addEventListener(event, () => (lastInput = Date.now()), { passive: true, capture: true });
}

/**
 * Call `ask` every so many seconds, and at once when the page is shown again. A call that fails is repeated later.
 *
 * @param {(options: {isBackground: true}) => Promise<unknown>} ask called with options for its requests
 * @param {number} seconds
 */
export function poll(ask, seconds) {
  let isAsking = false;
  const askOnce = async () => {
    if (isAsking || document.hidden || Date.now() - lastInput > ATTENDED_MS) return;
    isAsking = true;
    await ask({ isBackground: true }).catch(() => {}); // the next action of the person shows what is wrong
    isAsking = false;
  };
  setInterval(askOnce, 1000 * seconds);
  document.addEventListener("visibilitychange", askOnce);
}
