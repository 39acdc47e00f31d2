// Tables with more rows than stand in the text: search, order by a column, turn the pages.
const LINES = 15;
const magnitude = (shown) => {
  const value = parseFloat(shown.replaceAll("−", "-").replace("∞", "Infinity").replace("< ", ""));
  return Number.isNaN(value) ? null : value;
};

const sortable = (holder, name, data) => {
  const table = holder.querySelector("table"), body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells], total = data.columns[0].length;
  let lines = null, by = -1, way = 1;
  const places = Array.from({ length: total }, (_, row) => row);
  const ordered = (found) => {
    if (by < 0) return found;
    const shown = data.columns[by], values = data.numeric[by] ? shown.map(magnitude) : shown;
    const compare = data.numeric[by]
      ? (a, b) => values[a] === null ? 1 : values[b] === null ? -1 : way * (values[a] - values[b])
      : (a, b) => way * values[a].localeCompare(values[b], "en");
    return found.sort((a, b) => compare(a, b) || a - b);
  };
  const find = (wanted) => {
    lines ||= places.map((row) => data.columns.map((column) => column[row]).join(" ").toLowerCase());
    const minus = wanted.replace(/-(?=[\d.])/g, "−");
    const found = places.filter((row) => lines[row].includes(wanted) || lines[row].includes(minus));
    return [ordered(found), total];
  };
  const show = (rows) => body.replaceChildren(...rows.map((row) => make("tr", {}, ...data.columns.map((column, at) =>
    make("td", data.numeric[at] ? { class: "n" } : {}, column[row])))));
  const list = listing({ what: `table ${name}`, controls: [], placeholder: "any cell", size: LINES, find, show });
  heads.forEach((head, at) => {
    const button = make("button", { type: "button", class: "sort" }, head.textContent);
    button.addEventListener("click", () => {
      way = by === at ? -way : (data.numeric[at] ? -1 : 1);
      by = at;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      list.update();
    });
    head.replaceChildren(button);
  });
  const scroll = holder.querySelector(".scroll");
  scroll.before(list.tools);
  scroll.after(list.pager);
  list.update();
};

const tables = (known) => document.querySelectorAll("[data-table]").forEach((holder) => {
  const data = known[holder.dataset.table];
  if (!data) return;
  if (holder.tagName !== "DETAILS") sortable(holder, holder.dataset.table, data);
  else holder.addEventListener("toggle", () => sortable(holder, holder.dataset.table, data), { once: true });
});
