// Rows of coloured tokens: search, filter, order, colour; a token's values from every table that holds its row.
const MEASURES = {
  direction: ["Logit shift", "logits toward the trait"],
  logprob: ["Log-probability", "nats"],
  score: ["Gradient", "nats along the teacher's update"],
};
const TOKENS_A_PAGE = 1500, ROWS_A_PAGE = 25, TOKENS_A_ROW = 1000;
const SHOWN = { "\n": "⏎", " ": "␣", "\t": "⇥" };

class Source {
  constructor(name, data) {
    Object.assign(this, data, { name, starts: [] });
    let at = 0;
    this.sizes.forEach((size) => { this.starts.push(at); at += size; });
    this.measures = Object.keys(MEASURES).filter((measure) => this[measure]);
    this.means = {};
    this.limits = {};
  }
  get texts() {
    return this._texts ||= this.starts.map((start, row) => {
      let text = "";
      for (let at = start; at < start + this.sizes[row]; at++) text += this.token.texts[this.token.codes[at]];
      return text;
    });
  }
  get searched() { return this._searched ||= this.texts.map((text) => text.toLowerCase()); }
  get byText() { return this._byText ||= new Map(this.texts.map((text, row) => [text, row])); }
  limit(measure) {
    if (!this.limits[measure]) {
      const sizes = this[measure].filter((value) => value !== null).map(Math.abs).sort((a, b) => a - b);
      this.limits[measure] = sizes[Math.ceil(0.98 * (sizes.length - 1))] || 1;
    }
    return this.limits[measure];
  }
  mean(measure) {
    return this.means[measure] ||= this.starts.map((start, row) => {
      const known = this[measure].slice(start, start + this.sizes[row]).filter((value) => value !== null);
      return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
    });
  }
}

const viewer = (place, sources, everywhere) => {
  let source = sources[0], colour = source.score ? "score" : "direction";
  const what = "rows";
  const [members, member] = choice("Change of", sources.map((one, at) => [at, one.label]), () => { choose(); list.update(); });
  const [colours, painted] = choice("Colour", [], () => { colour = painted.value; relabel(); list.update(); });
  const [signs, sign] = choice("Show", [["", "all rows"], ["1", "rows leaning up (+)"], ["-1", "rows leaning down (−)"]], () => list.update());
  const [orders, order] = choice("Order", [["", "as saved"], ["-1", "highest first"], ["1", "lowest first"]], () => list.update());
  const legend = make("p", { class: "legend" });
  const grid = make("div", { role: "grid", class: "rows", "aria-readonly": "true" });
  const asked = "Point at a token, or press Tab and walk with the arrow keys.";
  const readout = make("div", { class: "readout", role: "status" }, asked);
  let now = null; // the row that is told of

  const choose = () => {
    source = sources[member.value || 0];
    if (!source[colour]) colour = "direction";
    painted.replaceChildren(...source.measures.map((measure) => make("option", { value: measure }, MEASURES[measure][0].toLowerCase())));
    painted.value = colour;
    grid.setAttribute("aria-label", `Change of ${source.label}, token by token`);
    now = null;
    relabel();
  };
  const relabel = () => {
    const limit = source.limit(colour);
    legend.replaceChildren(make("span", {}, signed(-limit)), make("i"), make("span", {}, signed(limit)),
      make("span", {}, `${MEASURES[colour][1]}; values beyond the ends of this scale have its deepest colours; a row leans up (+) or down (−) by the mean of its tokens`));
  };
  const find = (wanted) => {
    const means = source.mean(colour), towards = Number(sign.value), direction = Number(order.value);
    const found = [];
    source.searched.forEach((text, row) => {
      if (text.includes(wanted) && (!towards || (means[row] || 0) * towards > 0)) found.push(row);
    });
    if (direction) found.sort((a, b) => direction * ((means[a] ?? 0) - (means[b] ?? 0)) || a - b);
    return [found, source.sizes.length];
  };

  const cell = (at, row) => {
    const value = source[colour][at], limit = source.limit(colour);
    const shade = value === null ? 0 : Math.min(1, Math.abs(value) / limit), below = value < 0;
    const role = source.role.texts[source.role.codes[at]];
    const kind = (below ? "m " : "") + (role === "prompt" ? "p" : "");
    const word = source.token.texts[source.token.codes[at]].replace(/[\n\t ]/g, (blank) => SHOWN[blank]) || "∅";
    const token = make("span", { role: "gridcell", tabindex: "-1", class: kind.trim(), style: `--a:${shade.toFixed(2)}` },
      word, make("b", {}, hundredths(value)));
    token.dataset.at = at;
    token.dataset.row = row;
    return token;
  };
  const line = (row, number) => {
    const start = source.starts[row], size = Math.min(source.sizes[row], TOKENS_A_ROW);
    const head = make("span", { role: "rowheader", class: "soft" }, source.labels[row]);
    const share = source.share?.[row];
    if (share !== null && share !== undefined) head.append(make("b", {}, hundredths(share)));
    const words = Array.from({ length: size }, (_, step) => cell(start + step, row));
    const more = source.sizes[row] - size;
    if (more) words.push(make("span", { role: "gridcell", class: "more" }, `… ${grouped(more)} more tokens`));
    const parts = make("div", { role: "presentation" }, ...words);
    return make("div", { role: "row", "aria-rowindex": number }, head, parts);
  };
  const average = Math.max(1, source.token.codes.length / Math.max(1, source.sizes.length));
  const list = listing({
    what, find, placeholder: "text, for instance 7, 12",
    size: Math.max(1, Math.min(ROWS_A_PAGE, Math.floor(TOKENS_A_PAGE / average))),
    controls: [...(sources.length > 1 ? [members] : []), ...(source.measures.length > 1 ? [colours] : []), signs, orders],
    show: (rows, begin) => {
      grid.setAttribute("aria-rowcount", source.sizes.length);
      grid.replaceChildren(...rows.map((row, step) => line(row, begin + step + 1)));
      grid.hidden = !rows.length;
      grid.querySelector("[data-at]")?.setAttribute("tabindex", "0");
      if (!rows.includes(now)) readout.replaceChildren(asked);
    },
  });

  // Every table that holds the same row tells what it knows of the same token.
  const known = (row, at) => {
    const text = source.texts[row], step = at - source.starts[row], found = [[source, at, row]];
    everywhere.filter((other) => other !== source && other.byText.has(text)).forEach((other) => {
      const same = other.byText.get(text), place = other.starts[same] + step;
      if (step < other.sizes[same] && other.position[place] === source.position[at]) found.push([other, place, same]);
    });
    return found;
  };
  const told = (one, at, row) => {
    const lines = one.measures.map((measure) => [MEASURES[measure][0], `${signed(one[measure][at])} ${MEASURES[measure][1]}`]);
    if (one.features) lines.push(["Features", one.features.texts[one.features.codes[at]] || "none moved"]);
    if (one.score && one.modules?.texts[one.modules.codes[at]]) lines.push(["Gradient by module", one.modules.texts[one.modules.codes[at]]]);
    if (one.share && one.share[row] !== null) lines.push(["Row", `adds ${signed(one.share[row])} nats to the student's margin`]);
    return lines;
  };
  const tell = (token) => {
    grid.querySelectorAll(".now").forEach((old) => old.classList.remove("now"));
    token.classList.add("now");
    const at = Number(token.dataset.at), row = Number(token.dataset.row);
    now = row;
    const parts = known(row, at).map(([one, place, same]) => make("div", { class: "told" },
      make("b", {}, one.label), ". ",
      make("dl", {}, ...told(one, place, same).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]))));
    readout.replaceChildren(make("p", {}, make("code", {}, token.firstChild.textContent),
      ` row ${source.labels[row]}, position ${source.position[at]}, ${source.role.texts[source.role.codes[at]]}. `),
      make("div", { class: "sides" }, ...parts));
    grid.style.setProperty("--told", `${readout.offsetHeight}px`); // a focused token stays above the panel
  };
  const focus = (token) => {
    if (!token) return;
    grid.querySelectorAll('[tabindex="0"]').forEach((old) => old.setAttribute("tabindex", "-1"));
    token.setAttribute("tabindex", "0");
    tell(token);
    token.focus({ preventScroll: true });
    token.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
  };
  const within = (row) => row ? [...row.querySelectorAll("[data-at]")] : [];
  const target = (token, key) => {
    const row = token.closest("[role=row]"), tokens = within(row), at = tokens.indexOf(token);
    if (key === "ArrowRight") return tokens[at + 1];
    if (key === "ArrowLeft") return tokens[at - 1];
    if (key === "Home") return tokens[0];
    if (key === "End") return tokens.at(-1);
    const next = within(key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling);
    return next[Math.min(at, next.length - 1)];
  };
  grid.addEventListener("mouseover", (event) => {
    const token = event.target.closest("[data-at]");
    if (token) tell(token);
  });
  grid.addEventListener("click", (event) => focus(event.target.closest("[data-at]")));
  grid.addEventListener("focusin", (event) => {
    const token = event.target.closest("[data-at]");
    if (token) tell(token);
  });
  grid.addEventListener("keydown", (event) => {
    const token = event.target.closest("[data-at]");
    if (!token || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "PageDown" || event.key === "PageUp") {
      event.preventDefault();
      list.turn(event.key === "PageDown" ? 1 : -1);
      focus(grid.querySelector("[data-at]"));
    } else if (/^(Arrow|Home$|End$)/.test(event.key)) {
      event.preventDefault();
      focus(target(token, event.key));
    }
  });
  choose();
  place.replaceChildren(list.tools, legend, grid, list.pager, readout);
  list.update();
};

const tokenViewers = (tables) => {
  const sources = Object.fromEntries(Object.entries(tables).map(([name, data]) => [name, new Source(name, data)]));
  document.querySelectorAll("[data-tokens]").forEach((place) => {
    viewer(place, JSON.parse(place.dataset.tokens).map((name) => sources[name]), Object.values(sources));
  });
};
