/** Builds DOM elements. Text always becomes a text node, so no file name or patient's name is read as markup. */

/**
 * An element with attributes, listeners (`onclick`, …) and children.
 *
 * `false`, `null` and `undefined` leave an attribute or a child out; `true` sets an attribute without a value.
 */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

/** The element of the page with this id. */
export const byId = (id) => document.getElementById(id);

/** Text for screen readers only. */
export const hiddenText = (content) => element("span", { class: "visually-hidden" }, content);

/** Put the nodes into the list in order, moving as few as possible, so that the focus and the scroll place stay. */
export function arrange(list, nodes) {
  const wanted = new Set(nodes);
  for (const node of [...list.children]) if (!wanted.has(node)) node.remove();
  nodes.forEach((node, at) => {
    if (list.children[at] !== node) list.insertBefore(node, list.children[at] ?? null);
  });
}
