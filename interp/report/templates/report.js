(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot[data-figure]")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const night = {
    white: "rgba(0,0,0,0)", "#222222": "#e8e8e6", "#333333": "#c4c8d0", "#000000": "#ffffff",
    "#e6e6e6": "#363a41", "#999999": "#8a8f98",
  };

  // Colours of the figures' template, exchanged for those of the dark page; only under keys that name a colour.
  const themed = (value, key) => {
    if (typeof value === "string") return /color$/.test(key) && night[value] ? night[value] : value;
    if (Array.isArray(value)) return value.map((item) => themed(item, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, themed(item, name)]));
    }
    return value;
  };

  const draw = (isDark, width) => plots.forEach((plot) => {
    const name = plot.dataset.figure;
    const copy = isDark ? themed(figures[name], "") : structuredClone(figures[name]);
    copy.layout.modebar = { bgcolor: "rgba(0,0,0,0)" };
    if (width) copy.layout.width = width;
    Plotly.react(plot, copy.data, copy.layout, {
      displaylogo: false, displayModeBar: "hover", responsive: true,
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
      toImageButtonOptions: { filename: name, scale: 2 },
    });
  });
  draw(dark.matches);
  dark.addEventListener("change", () => draw(dark.matches));
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details:not([open])").forEach((part) => {
      part.open = true;
      part.dataset.closed = "";
    });
    draw(false, 680);
  });
  addEventListener("afterprint", () => {
    document.querySelectorAll("details[data-closed]").forEach((part) => {
      part.open = false;
      delete part.dataset.closed;
    });
    draw(dark.matches);
  });

  document.querySelectorAll(".tokens").forEach((section) => {
    const rows = [...section.querySelectorAll("ol.rows li")];
    const [box, count, readout] = ["input", ".count", ".readout"].map((part) => section.querySelector(part));
    box.addEventListener("input", () => {
      const wanted = box.value.toLowerCase();
      rows.forEach((row) => { row.hidden = !row.dataset.text.toLowerCase().includes(wanted); });
      count.textContent = rows.filter((row) => !row.hidden).length + " of " + rows.length + " rows";
    });

    const show = (token) => {
      section.querySelectorAll(".now").forEach((old) => old.classList.remove("now"));
      token.classList.add("now");
      readout.textContent = token.firstChild.textContent + "  ·  " + token.title;
    };
    section.addEventListener("mouseover", (event) => {
      const token = event.target.closest("ol.rows span");
      if (token) show(token);
    });
    section.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const row = event.target.closest("ol.rows li");
      if (!step || !row) return;
      event.preventDefault();
      const tokens = [...row.querySelectorAll("span")];
      const now = tokens.findIndex((token) => token.classList.contains("now"));
      const next = now < 0 ? 0 : Math.min(Math.max(now + step, 0), tokens.length - 1);
      show(tokens[next]);
      tokens[next].scrollIntoView({ block: "nearest" });
    });
  });
})();
