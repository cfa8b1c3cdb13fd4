/** One letter for each class, the same for the same list of classes: of its code, else of its name, else any.
 *  Classes with more training pictures are more common, so they choose first. */

const LETTERS = "abcdefghijklmnopqrstuvwxyz";

/** Letters by class code. A class beyond the alphabet has none. */
export function classKeys(classes) {
  const keys = new Map();
  const taken = new Set();
  const take = (code, candidates) => {
    const letter = [...candidates.toLowerCase()].find((each) => LETTERS.includes(each) && !taken.has(each));
    if (!letter) return false;
    taken.add(letter);
    keys.set(code, letter);
    return true;
  };
  const common = classes.toSorted((one, other) => other.training_images - one.training_images);
  const waiting = common.filter(({ code }) => !take(code, code[0]));
  for (const { code, name } of waiting) take(code, `${code}${name}`) || take(code, LETTERS);
  return keys;
}
