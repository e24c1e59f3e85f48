/* What the widgets of maps.py do. Runs wherever it stands in the page, also in JupyterLab. */
(() => {
  "use strict";

  const unpack = (text, Type) => new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

  async function maps(root, content) {
    const { ids, classes, arms, side, columns } = content;
    const shares = Object.values(content.shares).map((text) => unpack(text, Uint16Array));
    const orders = content.orders.map((text) => unpack(text, Uint32Array));
    const find = (selector) => root.querySelector(selector);
    const [colouring, step, image, line] = ["select", "input", ".bhl-image", "[aria-live]"].map(find);
    const rows = [...root.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("td")]);
    const share = (source, i, k) => shares[source][i * classes.length + k] / 1000;

    Bokeh.set_log_level("warn");
    const boxes = [...root.querySelectorAll(".bhl-map")];
    const root_ids = content.document.roots.map(({ id }) => id);
    const roots = Object.fromEntries(root_ids.map((id, i) => [id, boxes[i]]));
    const [views] = await Bokeh.embed.embed_items({ maps: content.document }, [{ docid: "maps", root_ids, roots }]);
    const plots = root_ids.map((id) => views.get_by_id(id).model);
    const source = plots[0].renderers[0].data_source;
    const whole = plots.map(({ x_range, y_range }) => [x_range, y_range].map((r) => [r.start, r.end]));
    image.style.backgroundImage = `url(${content.sheet})`;
    image.style.backgroundSize = `${100 * columns}% auto`;

    // The chosen image stays; one that the mouse points at is looked at until the mouse leaves.
    let chosen, looked;

    function leading(from, i) {
      const order = classes.map((_, k) => k).sort((a, b) => share(from, i, b) - share(from, i, a) || a - b);
      const parts = order.slice(0, 2).filter((k) => share(from, i, k) > 0);
      return parts.map((k) => `${classes[k]} ${share(from, i, k).toFixed(3)}`).join(", ");
    }

    function look(i) {
      if (i === looked) return;
      looked = i;
      source.selected.indices = [i];
      root.dataset.looked = ids[i];
      const said = ["true", ...arms.map((arm) => `${arm} labels`)].map((name, from) => `${name} ${leading(from, i)}`);
      line.textContent = `${ids[i]}: ${said.join("; ")}`;
      image.setAttribute("aria-label", `Image ${ids[i]}`);

      const size = image.clientWidth;
      image.style.backgroundPosition = `${-size * (i % columns)}px ${-size * Math.floor(i / columns)}px`;
      rows.forEach((cells, k) =>
        cells.forEach((cell, from) => {
          cell.textContent = share(from, i, k).toFixed(3);
          cell.style.setProperty("--share", share(from, i, k));
        }),
      );
    }

    function choose(i) {
      chosen = i;
      step.value = orders[colouring.value].indexOf(i);
      step.setAttribute("aria-valuetext", `${Number(step.value) + 1} of ${ids.length}, ${ids[i]}`);
      look(i);
    }

    function nearest(plot, event, reach) {
      const [xs, ys] = ["x", "y"].map((axis) => source.data[`${axis}_${plot.name}`]);
      let best, least = (reach * (plot.x_range.end - plot.x_range.start)) / plot.inner_width;
      for (let i = 0; i < xs.length; i++) {
        const distance = Math.hypot(xs[i] - event.x, ys[i] - event.y);
        if (distance < least) [best, least] = [i, distance];
      }
      return best;
    }

    for (const plot of plots) {
      plot.on_event("mousemove", (event) => look(nearest(plot, event, 8) ?? chosen));
      plot.on_event("mouseleave", () => look(chosen));
      plot.on_event("tap", (event) => choose(nearest(plot, event, 24) ?? chosen));
      // The slider serves the keyboard; Bokeh's own stop has neither name nor use.
      views.get(plot).canvas.events_el.tabIndex = -1;
    }
    step.addEventListener("input", () => choose(orders[colouring.value][step.value]));
    colouring.addEventListener("change", () => {
      root.querySelectorAll(".bhl-legend").forEach((legend, i) => (legend.hidden = i !== Number(colouring.value)));
      for (const plot of plots) {
        const { glyph, selection_glyph } = plot.renderers[0];
        const field = { field: `colour_${plot.name}_${colouring.value}` };
        for (const each of [glyph, selection_glyph]) each.fill_color = field;
      }
      choose(chosen ?? orders[0][0]);
    });
    for (const button of root.querySelectorAll("button")) {
      button.addEventListener("click", () =>
        plots.forEach((plot, p) =>
          [plot.x_range, plot.y_range].forEach((range, axis) => {
            const middle = source.data[`${"xy"[axis]}_${plot.name}`][chosen];
            const half = (Number(button.value) * (range.end - range.start)) / 2;
            const [start, end] = half ? [middle - half, middle + half] : whole[p][axis];
            range.setv({ start, end });
          }),
        ),
      );
    }
    colouring.dispatchEvent(new Event("change"));
  }

  function explorer(root, content) {
    const [form, svg, status] = ["form", "svg", "[role=status]"].map((selector) => root.querySelector(selector));
    const knobs = form.elements;
    const epochs = Number(knobs.epoch.max);

    function draw(name, parts) {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(parts)) made.setAttribute(key, value);
      svg.append(made);
      return made;
    }

    const text = (content, parts) => (draw("text", parts).textContent = content);
    const is_chosen = (run) =>
      [run.labels, "both"].includes(knobs.labels.value) && [`${run.split}`, "all"].includes(knobs.split.value);

    function curves() {
      const [metric, epoch] = [knobs.metric.value, Number(knobs.epoch.value)];
      const [width, height, left, right, top, bottom] = [svg.clientWidth || 640, 320, 56, 12, 12, 40];
      svg.replaceChildren();
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("aria-label", `${content.metrics[metric]} of ${content.runs.length} runs over the epochs, on validation images`);
      const values = content.runs.flatMap((run) => run[metric].map(Number)).filter(Number.isFinite);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const log = low > 0 && high > 10 * low; // as a loss falls; an accuracy keeps its plain axis
      const scale = log ? Math.log : Number;
      const span = scale(high) - scale(low) || 1;
      const x = (e) => left + ((width - left - right) * (e - 1)) / Math.max(epochs - 1, 1);
      const y = (v) => height - bottom - ((height - top - bottom) * (scale(v) - scale(low))) / span;
      for (let i = 0; i <= 4; i++) {
        const value = log ? low * (high / low) ** (i / 4) : low + ((high - low) * i) / 4;
        draw("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), stroke: "currentColor", opacity: 0.2 });
        text(value.toPrecision(2), { x: left - 6, y: y(value) + 4, "text-anchor": "end" });
      }
      for (const e of new Set([1, Math.ceil(epochs / 2), epochs])) {
        text(e, { x: x(e), y: height - bottom + 18, "text-anchor": "middle" });
      }
      text(log ? "epoch (values on a logarithmic axis)" : "epoch", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" });
      draw("line", { x1: x(epoch), x2: x(epoch), y1: top, y2: height - bottom, stroke: "currentColor", "stroke-dasharray": "2 3" });
      for (const run of [...content.runs].sort((a, b) => is_chosen(a) - is_chosen(b))) {
        const colour = content.colours[run.labels];
        const points = run[metric].map((v, i) => (Number.isFinite(Number(v)) ? `${x(i + 1)},${y(Number(v))}` : ""));
        draw("polyline", {
          points: points.join(" "), fill: "none", stroke: colour, class: is_chosen(run) ? "bhl-strong" : "bhl-faint",
          "stroke-dasharray": run.labels === "hard" ? "7 4" : "none",
        });
        const value = Number(run[metric][epoch - 1]);
        if (is_chosen(run) && Number.isFinite(value)) draw("circle", { cx: x(epoch), cy: y(value), r: 5, fill: colour });
      }
    }

    async function copy(code) {
      getSelection().selectAllChildren(code);
      try {
        await navigator.clipboard.writeText(code.textContent);
        status.textContent = "Copied.";
      } catch {
        status.textContent = "The browser does not let a page copy; the command is selected, copy it with the keyboard.";
      }
    }

    function row(run) {
      const made = document.createElement("tr");
      const value = run[knobs.metric.value][knobs.epoch.value - 1];
      for (const content of [run.labels, run.split, value]) made.insertCell().textContent = content;
      made.cells[0].style.setProperty("--arm", content.colours[run.labels]);
      const [code, button] = ["code", "button"].map((tag) => document.createElement(tag));
      for (const part of run.command.replace("EPOCH", knobs.epoch.value).split(/(?= --)/)) {
        code.append(Object.assign(document.createElement("span"), { textContent: part })); // an option is not broken
      }
      Object.assign(button, { type: "button", textContent: "Copy" });
      button.setAttribute("aria-label", `Copy the command of ${run.labels} labels, split ${run.split}`);
      button.addEventListener("click", () => copy(code));
      made.insertCell().append(code, " ", button);
      return made;
    }

    function show() {
      root.querySelector("output").textContent = `${knobs.epoch.value} of ${epochs}`;
      root.querySelector("[data-value]").textContent = content.metrics[knobs.metric.value];
      root.querySelector("tbody").replaceChildren(...content.runs.filter(is_chosen).map(row));
      status.textContent = "";
      curves();
    }

    function read() {
      for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
        const knob = knobs.namedItem(name);
        if (knob?.options ? [...knob.options].some((option) => option.value === value) : knob) knob.value = value;
      }
      show();
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
      history.replaceState(null, "", `#${new URLSearchParams(new FormData(form))}`);
      show();
    });
    addEventListener("hashchange", read);
    new ResizeObserver(curves).observe(svg);
    read();
  }

  for (const root of document.querySelectorAll(".bhl:not([data-ready])")) {
    root.dataset.ready = "";
    root.querySelector(".bhl-live").hidden = false;
    const content = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    ({ maps, explorer })[root.dataset.widget](root, content);
  }
})();
