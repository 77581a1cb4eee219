// Elements made from data. Text is set as text, never parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Return the element with this id, which index.html has. */
export function byId(id) {
  return document.getElementById(id);
}

/** Return a new element. `properties` are set on it; `attributes` by setAttribute. */
export function element(name, properties = {}, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Return a new SVG element. */
export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Return text from the data in its own direction, so that it cannot reorder what is around it. */
export function isolated(text) {
  return element("bdi", { textContent: text });
}

/** Set the text of an element, and leave it alone if it has that text already. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
