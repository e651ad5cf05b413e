// Plotly reads pixels of the text in 3D from a canvas; a browser says so unless it knows before.
(() => {
  const plain = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, options) {
    return plain.call(this, kind, kind === "2d" ? { willReadFrequently: true, ...options } : options);
  };
})();
