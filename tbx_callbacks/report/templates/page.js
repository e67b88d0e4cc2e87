"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const state = { x: "step", y: "linear", smooth: "off", hidden: new Set(), mark: null, pick: {}, labels: {} };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 600px)");
  const paper = window.matchMedia("print");
  const root = document.documentElement;
  let printing = false;
  const isDark = () => dark.matches && !printing;
  const isNarrow = () => narrow.matches && !printing;
  const figures = [...document.querySelectorAll("figure[data-figure]")];
  const near = new Set();
  let version = 1;
  document.body.dataset.version = "1";

  // Arrays of numbers are lists, or base64-encoded bytes.
  const types = { f4: Float32Array, f8: Float64Array, i1: Int8Array, i2: Int16Array, i4: Int32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };
  const decode = (given) => {
    if (!given || given.bdata === undefined) return given;
    const bytes = Uint8Array.from(atob(given.bdata), (letter) => letter.charCodeAt(0));
    return new types[given.dtype](bytes.buffer);
  };
  const column = (given, place) => {
    const flat = decode(given);
    if (!given || given.bdata === undefined) return flat.map((row) => row[place]);
    const width = Number(given.shape.split(",")[1]);
    return Array.from({ length: flat.length / width }, (_, row) => flat[row * width + place]);
  };

  const longest = Math.max(...data.runs.map((run) => run.seconds[run.seconds.length - 1]));
  const [unit, seconds] = longest > 7200 ? ["h", 3600] : longest > 120 ? ["min", 60] : ["s", 1];
  const titles = { step: "step", samples: "samples", time: `time (${unit})` };

  // Converts a run's steps to the selected x axis, with linear interpolation between known steps.
  const onAxis = (run, steps) => {
    const { steps: known, seconds: times, samples } = data.runs[run];
    if (state.x === "step" || (state.x === "samples" && !samples)) return steps;
    const values = state.x === "time" ? times : samples;
    const scale = state.x === "time" ? 1 / seconds : 1;
    let place = 0;
    return Array.from(steps, (step) => {
      if (step < known[place]) place = 0;
      while (place < known.length - 2 && known[place + 1] < step) place += 1;
      const next = Math.min(place + 1, known.length - 1);
      const width = known[next] - known[place];
      const share = width ? Math.min(Math.max((step - known[place]) / width, 0), 1) : 0;
      return (values[place] + share * (values[next] - values[place])) * scale;
    });
  };

  const recolour = (colour) => {
    if (Array.isArray(colour)) return colour.map(recolour);
    return (isDark() && data.onDark[colour]) || colour;
  };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const dashes = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const several = data.runs.length > 1;
  // On paper, colours may be shades of grey: lines of one run get dashes, and long lines of several runs their symbols.
  const onPaper = (made, place) => {
    if (!made.meta.label) return;
    if (several && made.mode === "lines") Object.assign(made, { mode: "lines+markers", marker: { ...made.marker, size: 6, maxdisplayed: 8 } });
    if (!several) made.line = { ...made.line, dash: dashes[place % dashes.length] };
  };

  const coloured = (trace, place) => {
    const made = { ...trace, visible: true, y: decode(trace.y) };
    for (const key of ["line", "marker", "textfont"]) {
      if (made[key]) made[key] = { ...made[key], color: recolour(made[key].color) };
    }
    if (printing) onPaper(made, place);
    return made;
  };

  const lines = (trace, place) => {
    const made = coloured(trace, place);
    made.x = onAxis(trace.meta.run, decode(trace.x));
    const smooth = trace.customdata;
    delete made.customdata;
    if (state.smooth === "off" || !smooth) return [made];
    const faint = { ...made, opacity: 0.28, showlegend: false, hoverinfo: "skip", hovertemplate: undefined, line: { ...made.line, width: 1 } };
    return [faint, { ...made, y: column(smooth, state.smooth === "some" ? 0 : 1), line: { ...made.line, width: 2 } }];
  };

  const picture = (trace, kind) => {
    const made = coloured(trace, 0);
    made.x = onAxis(trace.meta.run, decode(trace.x));
    if (kind === "histograms" && trace.type === "heatmap") made.colorscale = [[0, css("--card")], [0.25, isDark() ? "#1d4468" : "#bcd8ee"], [1, printing ? "#7d97ad" : isDark() ? "#7cc0f8" : "#00558a"]];
    if (kind === "histograms" && trace.type !== "heatmap" && printing) Object.assign(made, { line: { ...made.line, color: "#000" }, marker: { ...made.marker, color: "#000" } });
    if (made.zmid === 0 && isDark()) made.colorscale = [[0, "#f5a55a"], [0.5, "#39434f"], [1, "#b59df0"]];
    if (made.zmid === 0 && printing) made.colorscale = [[0, "#fff"], [1, "#333"]];  // grey tells only less from more
    if (made.colorbar) made.colorbar = { ...made.colorbar, tickfont: { color: css("--quiet"), size: 11 } };
    return [made];
  };

  // Names are escaped for plotly.
  const text = (name) => name.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const strokes = { dash: "6 3", dot: "2 3", dashdot: "6 3 2 3", longdash: "10 3", longdashdot: "10 3 2 3" };

  // The legend is outside of the plot, so that it takes no room from the lines. With several runs it explains the
  // dashes; the controls show the colours and symbols of the runs. Its buttons hide and show lines.
  const labelOf = (trace) => trace.meta.label || trace.name;
  const legend = (figure, traces) => {
    const box = figure.querySelector(".legend"), name = figure.dataset.figure;
    const entries = new Map();
    for (const trace of traces) if (trace.meta.role === undefined && trace.showlegend !== false && !entries.has(labelOf(trace))) entries.set(labelOf(trace), trace);
    const hidden = state.labels[name] || new Set();
    box.replaceChildren(...(entries.size > 1 ? [...entries] : []).map(([label, trace]) => {
      const button = document.createElement("button"), picture = svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
      const colour = several && trace.line ? css("--quiet") : (trace.line || trace.marker).color || trace.marker.color;
      const style = { stroke: colour, "stroke-width": 2, "stroke-dasharray": (trace.line && strokes[trace.line.dash]) || "none" };
      if (trace.mode === "markers") picture.append(svg("path", { d: { x: "M9 1l8 8m0-8l-8 8", diamond: "M13 0l5 5-5 5-5-5z" }[trace.marker.symbol] || "M8 5a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", fill: trace.marker.color, stroke: trace.marker.color, "stroke-width": 2 }));
      else picture.append(svg("path", { d: "M1 5h24", fill: "none", ...style }));
      button.type = "button";
      button.setAttribute("aria-pressed", String(!hidden.has(label)));
      button.append(picture, text(label));
      button.addEventListener("click", () => {
        const all = state.labels[name] || (state.labels[name] = new Set());
        if (!all.delete(label)) all.add(label);
        delete figure.dataset.version;
        draw(figure);
        const again = [...box.children].find((one) => one.textContent === text(label));
        if (again) again.focus();
      });
      return button;
    }));
    for (const trace of traces) {
      trace.showlegend = false;
      if (trace.meta.role === undefined && hidden.has(labelOf(trace)) && entries.size > 1) trace.visible = false;
    }
  };

  const chosen = (name) => {
    const traces = data.figures[name].data.filter((trace) => !state.hidden.has(trace.meta.run) || trace.meta.pick);
    if (!traces.length || !traces[0].meta.pick) return traces;
    const section = document.getElementById(`figure-${name}`).closest("section").id;
    const wanted = state.pick[section] || {};
    const fits = (pick, one) => Object.entries(one).every(([key, value]) => pick[key] === value);
    const pick = traces.map((trace) => trace.meta.pick).find((one) => fits(wanted, one)) || traces[0].meta.pick;
    return traces.filter((trace) => fits(pick, trace.meta.pick));
  };

  const layoutOf = (given, kind) => {
    const quiet = css("--quiet");
    const axis = { gridcolor: css("--line"), zeroline: false, linecolor: css("--line"), tickfont: { color: quiet, size: 11 }, automargin: true };
    const over = kind !== "curve";
    const x = { ...axis, ...given.xaxis, title: { text: over ? titles[state.x] : given.xaxis.title.text, font: { size: 12, color: quiet }, standoff: 6 }, showgrid: false, ticks: "outside", tickcolor: css("--line"), ticklen: 4, nticks: isNarrow() ? 5 : 9 };
    const y = { ...axis, ...given.yaxis, title: { text: (given.yaxis.title || {}).text || "", font: { size: 12, color: quiet }, standoff: 4 } };
    if (kind === "lines") Object.assign(y, { type: state.y, exponentformat: "power", minexponent: 5, tickformat: state.y === "log" && !given.yaxis.tickformat ? "~g" : given.yaxis.tickformat });
    const made = {
      ...given, xaxis: x, yaxis: y, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", template: null,
      font: { family: getComputedStyle(document.body).fontFamily, color: css("--text"), size: 12 },
      margin: { l: 44, r: 14, t: 10, b: 40 }, showlegend: false,
      hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--text"), size: 12 } },
      uirevision: `${state.x} ${state.y}`, dragmode: isNarrow() ? false : "zoom",
    };
    if (kind === "heat" || kind === "histograms") made.plot_bgcolor = css("--card");
    if (kind === "heat") made.yaxis.tickfont = { color: quiet, size: isNarrow() ? 10 : 11 };
    if (state.mark && over) {
      const [at] = onAxis(state.mark.run, [state.mark.step]);
      made.shapes = [{ type: "line", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, line: { color: quiet, width: 1.5, dash: "dot" } }];
    }
    return made;
  };

  const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"] };
  const draw = (figure) => {
    const drawn = String(version);
    if (figure.dataset.version === drawn) return;
    figure.dataset.version = drawn;
    const { layout } = data.figures[figure.dataset.figure];
    const kind = layout.meta.kind;
    const build = kind === "lines" ? lines : kind === "curve" ? (trace, place) => [coloured(trace, place)] : (trace) => picture(trace, kind);
    const traces = chosen(figure.dataset.figure).flatMap(build);
    const plot = figure.querySelector(".plot");
    const made = layoutOf(layout, kind);
    if (kind === "lines" || kind === "curve") legend(figure, traces);
    if (kind !== "curve") singleStep(traces, made);
    plot.style.height = made.height ? `${made.height}px` : "";
    if (printing) Object.assign(made, { width: plot.clientWidth, height: plot.clientHeight });
    Plotly.react(plot, traces, made, { ...config, responsive: !printing, displayModeBar: printing ? false : "hover" }).then(() => { figure.dataset.drawn = drawn; });
    describe(figure, plot, traces);
  };
  // Whoever does not see the lines hears their names and last values; their numbers one by one would be noise.
  const describe = (figure, plot, traces) => {
    const shown = traces.filter((trace) => trace.type === "scatter" && trace.name && trace.meta.role === undefined && trace.visible && trace.hoverinfo !== "skip");
    const last = (trace) => Array.from(trace.y).filter(Number.isFinite).pop();
    const words = shown.slice(0, 8).map((trace) => `${text(trace.name)}${last(trace) === undefined || trace.mode === "markers" ? "" : `, last ${Number(last(trace).toPrecision(4))}`}`);
    plot.setAttribute("aria-label", [figure.querySelector("h3").textContent, ...words, ...(shown.length > 8 ? [`and ${shown.length - 8} more`] : [])].join("; "));
    plot.querySelectorAll(".main-svg").forEach((one) => one.setAttribute("aria-hidden", "true"));
  };
  // A chart with one step has it as its only label: plotly would show fractions of steps around it.
  const singleStep = (traces, made) => {
    const known = new Set(traces.flatMap((trace) => Array.from(trace.x)));
    if (known.size !== 1) return;
    const [only] = known;
    made.xaxis = { ...made.xaxis, tickvals: [only], ticktext: [only.toLocaleString("en", { maximumFractionDigits: 2 })] };
  };
  const redraw = () => {
    version += 1;
    document.body.dataset.version = String(version);  // other figures are redrawn when they scroll near
    near.forEach(draw);
  };

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { near.add(entry.target); draw(entry.target); } else near.delete(entry.target);
    }
  }, { rootMargin: "400px" });

  const press = (buttons, pressed) => buttons.forEach((one) => one.setAttribute("aria-pressed", String(one === pressed)));
  const remember = () => {
    if (data.refresh === null) return;
    const kept = new URLSearchParams({ x: state.x, y: state.y, smooth: state.smooth });
    history.replaceState(null, "", `#${kept}`);
  };
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const group of document.querySelectorAll("[data-switch]")) {
    const key = group.dataset.switch;
    const buttons = [...group.querySelectorAll("button")];
    for (const button of buttons) {
      if (button.dataset.value === "samples" && !data.runs.every((run) => run.samples)) {
        button.disabled = true;
        button.title = "Not all runs logged their number of samples";
      }
      button.addEventListener("click", () => { state[key] = button.dataset.value; press(buttons, button); remember(); redraw(); });
      if (kept.get(key) === button.dataset.value && !button.disabled) { state[key] = button.dataset.value; press(buttons, button); }
    }
  }
  for (const button of document.querySelectorAll("[data-toggle]")) {
    button.addEventListener("click", () => {
      const run = Number(button.dataset.toggle);
      const shown = state.hidden.delete(run);
      if (!shown) state.hidden.add(run);
      button.setAttribute("aria-pressed", String(shown));
      redraw();
    });
  }
  for (const button of document.querySelectorAll(".step")) {
    button.addEventListener("click", () => {
      state.mark = { run: Number(button.dataset.run), step: Number(button.dataset.step) };
      redraw();
      const training = document.getElementById("training");
      if (training) training.scrollIntoView({ behavior: "smooth" });
    });
  }
  for (const section of document.querySelectorAll("section")) {
    const values = {};
    for (const figure of section.querySelectorAll("figure[data-figure]")) {
      for (const trace of data.figures[figure.dataset.figure].data) {
        for (const [key, value] of Object.entries(trace.meta.pick || {})) (values[key] = values[key] || new Set()).add(value);
      }
    }
    state.pick[section.id] = {};
    for (const [key, options] of Object.entries(values)) {
      state.pick[section.id][key] = [...options][0];
      if (options.size < 2) continue;
      const label = document.createElement("label");
      const select = document.createElement("select");
      select.name = key;
      label.textContent = key;
      for (const option of options) select.add(new Option(option, option));
      select.addEventListener("change", () => { state.pick[section.id][key] = select.value; redraw(); });
      label.append(select);
      section.querySelector(".pickers").append(label);
    }
  }
  const paint = () => {
    for (const mark of document.querySelectorAll("[data-colour]")) mark.style.fill = recolour(mark.dataset.colour);
  };
  dark.addEventListener("change", () => { paint(); redraw(); });
  narrow.addEventListener("change", redraw);
  paint();

  // A table that is wider than its box says so, and can be scrolled with the keyboard.
  const boxes = document.querySelectorAll(".scroll, pre");
  const sizes = new ResizeObserver((entries) => {
    for (const { target: box } of entries) {
      const cut = box.scrollWidth > box.clientWidth + 1, more = cut || box.scrollHeight > box.clientHeight + 1;
      box.toggleAttribute("data-cut", cut);
      for (const [key, value] of Object.entries({ tabindex: "0", role: "region", "aria-label": box.dataset.title || "Text" })) {
        if (more) box.setAttribute(key, value); else box.removeAttribute(key);
      }
    }
  });
  boxes.forEach((box) => sizes.observe(box));

  // Paper shows every chart and all that is collapsed, except rules without data, in light colours, at a width that A4 and Letter have.
  let closed = [];
  const print = () => {
    if (printing) return;
    printing = true;
    root.classList.add("printing");
    closed = [...document.querySelectorAll("details:not([open], .lacking)")];
    closed.forEach((one) => { one.open = true; });
    document.querySelectorAll(".scroll").forEach((box) => box.classList.toggle("tight", box.firstElementChild.offsetWidth > box.clientWidth));
    paint();
    version += 1;
    document.body.dataset.version = String(version);
    figures.forEach(draw);
  };
  const printed = () => {
    if (!printing) return;
    printing = false;
    root.classList.remove("printing");
    closed.forEach((one) => { one.open = false; });
    paint();
    redraw();
  };
  window.addEventListener("beforeprint", print);
  window.addEventListener("afterprint", printed);
  paper.addEventListener("change", () => { if (paper.matches) print(); else printed(); });
  figures.forEach((figure) => observer.observe(figure));

  if (data.refresh !== null) {
    const reload = () => { if (document.visibilityState === "visible") location.reload(); };
    setTimeout(() => { reload(); document.addEventListener("visibilitychange", reload); }, data.refresh * 1000);
  }
})();
