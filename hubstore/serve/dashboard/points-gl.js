/** Points drawn by the graphics card: positions go from one layer to another there, so that a step costs a number. */

const VERTEX = `#version 300 es
in vec2 a_from; in vec2 a_to; in vec4 a_look; in float a_state;
uniform float u_time, u_size, u_pass; uniform vec2 u_center, u_zoom;
out vec3 v_color; out float v_alpha; flat out int v_shape;
void main() {
  bool lit = a_state > 2.5;
  bool now = a_state > 0.5 && (lit == (u_pass > 0.5));
  vec2 place = (mix(a_from, a_to, u_time) - u_center) * u_zoom;
  gl_Position = now ? vec4(place, 0.0, 1.0) : vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = u_size * (lit ? 1.7 : 1.0);
  v_color = a_look.rgb;
  v_alpha = lit ? 1.0 : (a_state > 1.5 ? 0.78 : 0.12);
  v_shape = int(a_look.a * 255.0 + 0.5);
}`;

const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 v_color; in float v_alpha; flat in int v_shape;
uniform highp float u_size;
out vec4 color;
void main() {
  vec2 p = gl_PointCoord * 2.0 - 1.0;
  float far = length(p);
  if (v_shape == 1) far = max(abs(p.x), abs(p.y)) * 1.2;
  else if (v_shape == 2) far = max(p.y * 1.15, abs(p.x) * 1.0 - p.y * 0.55 + 0.12);
  else if (v_shape == 3) far = abs(p.x) + abs(p.y);
  float edge = clamp((1.0 - far) * u_size * 0.5, 0.0, 1.0) * v_alpha;
  color = vec4(v_color * edge, edge);
}`;

export class PointsGL {
  /** @param {WebGL2RenderingContext} gl of a canvas. */
  constructor(gl) {
    this.gl = gl;
    this.canvas = gl.canvas;
    const { canvas } = this;
    this.given = {};
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => {
      this.#build();
      for (const [name, values] of Object.entries(this.given)) this.#put(name, values);
      if (this.last) this.draw(this.last);
    });
    this.#build();
  }

  /**
   * Where points come from and where they go.
   * @param {Float32Array} from x and y of each.
   * @param {Float32Array} to likewise.
   */
  move(from, to) {
    this.#put("a_from", from);
    this.#put("a_to", to);
    this.count = from.length / 2;
  }

  /**
   * How points look.
   * @param {Uint8Array} look red, green, blue and the shape of each.
   * @param {Uint8Array} state of each: 0 hidden, 1 dim, 2 plain, 3 lit.
   */
  paint(look, state) {
    this.#put("a_look", look);
    this.#put("a_state", state);
  }

  /** @param {{time: number, center: number[], zoom: number[], size: number}} view `size` of points in pixels. */
  draw(view) {
    this.last = view;
    const { gl, places } = this;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform1f(places.u_time, view.time);
    gl.uniform2fv(places.u_center, view.center);
    gl.uniform2fv(places.u_zoom, view.zoom);
    for (const pass of [0, 1]) {
      gl.uniform1f(places.u_pass, pass);
      gl.uniform1f(places.u_size, view.size);
      gl.drawArrays(gl.POINTS, 0, this.count);
    }
  }

  close() {
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  #build() {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, source] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, FRAGMENT],
    ]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    this.places = Object.fromEntries(
      ["u_time", "u_size", "u_pass", "u_center", "u_zoom"].map((name) => [name, gl.getUniformLocation(program, name)]),
    );
    this.buffers = {};
    for (const [name, size, type, normalized] of [
      ["a_from", 2, gl.FLOAT, false],
      ["a_to", 2, gl.FLOAT, false],
      ["a_look", 4, gl.UNSIGNED_BYTE, true],
      ["a_state", 1, gl.UNSIGNED_BYTE, false],
    ]) {
      const place = gl.getAttribLocation(program, name);
      this.buffers[name] = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, type, normalized, 0, 0);
    }
  }

  #put(name, values) {
    this.given[name] = values;
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.buffers[name]);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, values, this.gl.DYNAMIC_DRAW);
  }
}
