"use strict";
(() => {
  const { samples, palette } = JSON.parse(document.getElementById("data").textContent);
  if (!samples.length) return;
  const get = (id) => document.getElementById(id);
  const at = get("at"), which = get("which"), opacity = get("opacity"), layer = get("layer"), camera = get("camera");
  const figures = [...document.querySelectorAll(".inputs figure")];
  const plots = [...document.querySelectorAll("svg.plot.time")];
  const span = samples[samples.length - 1].t - samples[0].t;

  const put = (image, source) => {
    image.hidden = !source;
    if (source) image.src = source;
    else image.removeAttribute("src");
  };

  function show() {
    const sample = samples[at.value];
    const shape = `${sample.size[0]} / ${sample.size[1]}`;
    document.querySelector(".stack").style.aspectRatio = shape;
    put(camera, sample.image);
    put(layer, sample.layers[which.value]);
    layer.style.opacity = sample.image ? opacity.value / 100 : 1;
    get("time").textContent = `${sample.t.toFixed(span < 60 ? 1 : 0)} s`;
    const facts = [`${sample.used.join(" + ")}`, `confidence ${sample.confidence} %`, `${sample.ms} ms`];
    if (sample.miou !== null) facts.unshift(`mIoU ${sample.miou} %`);
    if (!sample.image) facts.push("no camera image");
    get("caption").textContent = facts.join(" · ");
    for (const figure of figures) {
      figure.style.setProperty("--shape", shape);
      put(figure.querySelector("img"), sample.inputs[figure.dataset.modality]);
    }
    for (const plot of plots) {
      const { start, end, left, right } = plot.dataset;
      const x = +left + ((sample.t - start) / Math.max(end - start, 1e-9)) * (right - left);
      const cursor = plot.querySelector(".cursor");
      cursor.setAttribute("transform", `translate(${x - left} 0)`);
      cursor.style.opacity = 0.7;
    }
    cloud.load(sample.cloud);
  }

  // A click on a plot shows the nearest sample.
  for (const plot of plots) {
    plot.style.cursor = "pointer";
    plot.addEventListener("click", (event) => {
      const box = plot.getBoundingClientRect(), { start, end, left, right } = plot.dataset;
      const x = ((event.clientX - box.left) / box.width) * plot.viewBox.baseVal.width;
      const t = +start + ((x - left) / (right - left)) * (end - start);
      const gaps = samples.map((sample) => Math.abs(sample.t - t));
      at.value = gaps.indexOf(Math.min(...gaps));
      show();
    });
  }

  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; get("play").textContent = "▶"; };
  get("play").addEventListener("click", () => {
    if (timer) return stop();
    get("play").textContent = "⏸";
    timer = setInterval(() => { at.value = (+at.value + 1) % samples.length; show(); }, 250);
  });
  at.addEventListener("input", () => { stop(); show(); });
  which.addEventListener("input", show);
  opacity.addEventListener("input", show);

  // The point cloud, in an orbit camera around a point ahead of the vehicle: x right, y down, z forward, meters.
  const cloud = (() => {
    const canvas = document.querySelector(".cloud canvas");
    if (!canvas) return { load() {} };
    const pen = canvas.getContext("2d");
    let points = null, labels = null, yaw = 0, pitch = 0.36, distance = 21;

    function draw() {
      const { width, height } = canvas;
      pen.fillStyle = "#0d1016";
      pen.fillRect(0, 0, width, height);
      if (!points) {
        pen.fillStyle = "#8a93a3";
        pen.font = "26px sans-serif";
        pen.textAlign = "center";
        return pen.fillText("no LiDAR in this sample", width / 2, height / 2);
      }
      const cy = Math.cos(yaw), sy = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch), focal = width * 0.62;
      const drawn = [];
      for (let i = 0; i < labels.length; i++) {
        const x = points[3 * i] / 100, y = points[3 * i + 1] / 100, z = points[3 * i + 2] / 100 - 14;
        const right = cy * x - sy * z, ahead = sy * x + cy * z;
        const depth = cp * ahead + sp * y + distance, down = cp * y - sp * ahead;
        if (depth > 0.5) drawn.push([depth, width / 2 + (focal * right) / depth, height * 0.44 + (focal * down) / depth, labels[i]]);
      }
      drawn.sort((a, b) => b[0] - a[0]);
      for (const [depth, x, y, label] of drawn) {
        const side = Math.max(2.5, 85 / depth);
        const [r, g, b] = palette[label] || [120, 120, 120];
        pen.fillStyle = `rgb(${r + 30},${g + 30},${b + 30})`;
        pen.fillRect(x - side / 2, y - side / 2, side, side);
      }
    }

    function load(text) {
      points = null;
      if (text) {
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), count = bytes.length / 7;
        points = new Int16Array(bytes.buffer, 0, 3 * count);
        labels = bytes.subarray(6 * count);
      }
      draw();
    }

    const zoom = (factor) => { distance = Math.min(120, Math.max(3, distance * factor)); draw(); };
    const pointers = new Map();
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); pointers.set(event.pointerId, event); });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const other = [...pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
      pointers.set(event.pointerId, event);
      if (other) {
        const gap = (a) => Math.hypot(a.clientX - other.clientX, a.clientY - other.clientY);
        return zoom(gap(before) / Math.max(gap(event), 1));
      }
      yaw -= (event.clientX - before.clientX) / 200;
      pitch = Math.min(1.5, Math.max(-0.2, pitch + (event.clientY - before.clientY) / 200));
      draw();
    });
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.1 : 0.9);
    }, { passive: false });
    return { load };
  })();

  at.value = Math.floor((samples.length - 1) / 2);
  show();
})();
