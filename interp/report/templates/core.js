// What every part uses: unpacking, numbers, elements, and a pager over a list of places.
const unpack = async (id) => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};

// Three digits, always with a sign, a true minus; a dash for what is missing.
const signed = (value) => {
  if (value === null || value === undefined) return "–";
  const shown = String(Number(Math.abs(value).toPrecision(3)));
  return (value < 0 ? "−" : "+") + shown;
};
const hundredths = (value) => value === null || value === undefined ? "–"
  : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const grouped = (count) => count.toLocaleString("en");

// An element with attributes and children; strings become text, never markup.
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.append(...children);
  return element;
};
let counter = 0;
const labelled = (words, control) => {
  control.id = "control-" + ++counter;
  return make("div", { class: "control" }, make("label", { for: control.id }, words), control);
};
const choice = (words, options, changed) => {
  const select = make("select", {}, ...options.map(([value, label]) => make("option", { value }, label)));
  select.addEventListener("change", changed);
  return [labelled(words, select), select];
};

// A search box, further controls, how many rows are left, and buttons that turn the pages.
const listing = ({ what, controls, placeholder, size, find, show }) => {
  const box = make("input", { type: "search", autocomplete: "off", placeholder });
  const count = make("p", { class: "count soft", role: "status" });
  const buttons = [["‹ Previous", -1], ["Next ›", 1]].map(([words, step]) => {
    const button = make("button", { type: "button", "aria-label": `${step < 0 ? "Previous" : "Next"} page of ${what}` }, words);
    button.addEventListener("click", () => { if (button.getAttribute("aria-disabled") !== "true") turn(page + step); });
    return button;
  });
  const place = make("span", { class: "soft" });
  const pager = make("div", { class: "pager" }, buttons[0], place, buttons[1]);
  let found = [], page = 0;
  const turn = (wanted) => {
    const pages = Math.max(1, Math.ceil(found.length / size));
    page = Math.min(Math.max(wanted, 0), pages - 1);
    const begin = page * size, end = Math.min(begin + size, found.length);
    pager.hidden = pages === 1;
    place.textContent = `${grouped(begin + 1)} to ${grouped(end)}`;
    [page > 0, page < pages - 1].forEach((on, side) => buttons[side].setAttribute("aria-disabled", String(!on)));
    show(found.slice(begin, end), begin);
  };
  const update = () => {
    const [places, total] = find(box.value.toLowerCase().trim());
    found = places;
    count.textContent = `${grouped(found.length)} of ${grouped(total)} rows` + (found.length ? "" : ": nothing matches");
    turn(0);
  };
  let waiting = 0;
  box.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 80); });
  const tools = make("div", { class: "tools", role: "search", "aria-label": `Find in ${what}` },
    labelled("Search", box), ...controls, count);
  return { tools, pager, update, turn: (step) => turn(page + step) };
};
