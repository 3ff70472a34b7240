// Convolutions, strip by strip: some rows of one image, or some whole small images, as int32 sums in the cache.
//
// Packed weights, O and C those of a group, o running through vectors of LANES outputs:
//   WORDS, BYTES  [group][block of V vectors][segment][group of 4 bytes][V][LANES][2 int16 | 4 s8]: see dot.h. Segments
//                 are kernel rows (KW * C terms) where groups = 1 and columns are not dilated, else single taps (C terms).
//   WINOGRAD      [36][block of V vectors][pair of channels][V][LANES][2 int16], see winograd.h
//   DEPTHWISE     int32 [tap][C padded to vectors]
#ifndef HWQ_ENGINE_CONV_H
#define HWQ_ENGINE_CONV_H

#include "plain.h"
#include "scratch.h"
#include "stage.h"
#include "winograd.h"

namespace hwq::engine {

constexpr int64_t STRIP = 4096; // int32 sums a strip aims at: 16 KiB

// Vectors that hold `count` outputs: 1, or an even number.
inline int64_t output_vectors(int64_t count) { return count <= LANES ? 1 : round_up(count, 2 * LANES) / LANES; }

// How one convolution is cut up, and how large its buffers are.
struct Conv {
  const Op &op;
  Method method;
  int64_t images, h, w, c;          // input
  int64_t oh, ow, outs, row;        // output; row: int32 from one position's sums to the next's
  int64_t strip_rows, strip_images;
  int64_t staged_rows, staged_width; // of one image of a strip
  int64_t tiles;                     // of a strip

  Conv(const Op &op_, const Op &source, int64_t count)
      : op(op_), method(static_cast<Method>(op_.method)), images(count), h(source.shape[0]), w(source.shape[1]),
        c(source.shape[2]), oh(op_.shape[0]), ow(op_.shape[1]), outs(op_.shape[2]) {
    if (static_cast<Kind>(op.kind) == Kind::LINEAR) { // the images of a batch are the columns of one
      images = 1, h = 1, w = ow = count, c = size_of(source);
    }
    const int64_t per_group = outs / op.groups;
    row = method == Method::PLAIN ? outs : outs - per_group + output_vectors(per_group) * LANES;
    if (row < round_up(outs, LANES)) row = round_up(outs, LANES);
    const int64_t unit = method == Method::WINOGRAD ? TILE : 1;
    // so many tiles that passing over the weights of all 36 spots costs no more than passing over the tiles
    const int64_t aim = method == Method::WINOGRAD ? (c > 48 ? c / 3 : 16) * TILE * TILE * row : STRIP;
    strip_rows = aim / (ow * row) / unit * unit;
    if (strip_rows < unit) strip_rows = unit;
    if (strip_rows > oh) strip_rows = oh;
    strip_images = strip_rows == oh ? aim / (oh * ow * row) : 1;
    if (strip_images < 1) strip_images = 1;
    if (strip_images > images) strip_images = images;
    if (method == Method::WINOGRAD) {
      staged_rows = round_up(strip_rows, TILE) + PATCH - TILE;
      staged_width = round_up(ow, TILE) + PATCH - TILE;
    } else {
      staged_rows = (strip_rows - 1) * op.stride[0] + (op.kernel[0] - 1) * op.dilation[0] + 1;
      staged_width = left(op) + w + right(op);
    }
    tiles = strip_images * (round_up(strip_rows, TILE) / TILE) * (round_up(ow, TILE) / TILE);
  }

  int64_t strip_pixels() const { return strip_images * strip_rows * ow; }
  int64_t staged_bytes() const { return staged_rows * staged_width * c * type_bytes(staging().type); }
  Staging staging() const {
    Type type = Type::S16;
    if (method == Method::BYTES) type = Type::U8;
    if (method == Method::PLAIN) type = op.wide ? Type::S64 : Type::S32;
    return {type, left(op), staged_width, op.flip};
  }
  int64_t padded_inputs() const { return round_up(c, 2 * LANES); }
};

struct ConvBuffers {
  int32_t *acc = nullptr;      // (pixels of a strip, row)
  int64_t *long_acc = nullptr; // the same for PLAIN
  char *staged = nullptr;      // (images of a strip, staged rows, staged width, c)
  int16_t *spots = nullptr;    // (tiles, 36, c padded)
  int32_t *sums = nullptr;     // (tiles, 36, row)
  int64_t *offsets = nullptr;  // a segment each

  ConvBuffers(const Conv &conv, Scratch &scratch) {
    staged = scratch.take<char>(conv.strip_images * conv.staged_bytes());
    if (conv.method == Method::PLAIN) {
      long_acc = scratch.take<int64_t>(conv.strip_pixels() * conv.outs);
      return;
    }
    acc = scratch.take<int32_t>(conv.strip_pixels() * conv.row);
    offsets = scratch.take<int64_t>(int64_t(conv.op.kernel[0]) * conv.op.kernel[1]);
    if (conv.method == Method::WINOGRAD) {
      spots = scratch.take<int16_t>(conv.tiles * SPOTS * conv.padded_inputs());
      sums = scratch.take<int32_t>(conv.tiles * SPOTS * conv.row);
    }
  }
};

// Positions of one staged image (values of size `bytes`) to its sums.
template <class D>
inline void dot_image(const Conv &conv, const char *staged, int64_t bytes, int64_t rows, int64_t *offsets, int32_t *acc) {
  const Op &op = conv.op;
  const int64_t taken = conv.c / op.groups, per_group = conv.outs / op.groups, values = 4 / bytes;
  const bool whole_rows = op.groups == 1 && op.dilation[1] == 1;
  const int64_t taps = whole_rows ? 1 : op.kernel[1];
  const int64_t length = whole_rows ? op.kernel[1] * taken : taken;
  for (int64_t i = 0; i < op.kernel[0]; ++i)
    for (int64_t j = 0; j < taps; ++j)
      offsets[i * taps + j] = (i * op.dilation[0] * conv.staged_width + j * op.dilation[1]) * conv.c * bytes;
  const Terms terms = {offsets, op.kernel[0] * taps, round_up(length, values) / values};
  const int64_t vectors = output_vectors(per_group);
  const int64_t group_bytes = vectors * LANES * 4 * terms.segments * terms.groups;
  const int64_t step = op.stride[1] * conv.c * bytes;
  for (int64_t g = 0; g < op.groups; ++g) {
    const char *const weights = static_cast<const char *>(op.weights) + g * group_bytes;
    const int32_t *const start = op.start ? op.start + g * vectors * LANES : nullptr;
    for (int64_t y = 0; y < rows; ++y) {
      const char *const x = staged + (y * op.stride[0] * conv.staged_width * conv.c + g * taken) * bytes;
      // a group's last vector reaches into the next group's sums, which are written afterwards
      dot_row<D>(x, step, conv.ow, terms, weights, start, acc + y * conv.ow * conv.row + g * per_group, conv.row, vectors);
    }
  }
}

inline void depthwise_image(const Conv &conv, const int16_t *staged, int64_t rows, int32_t *acc) {
  const Op &op = conv.op;
  const int64_t vectors = round_up(conv.outs, LANES) / LANES;
  const int32_t *const weights = static_cast<const int32_t *>(op.weights);
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t x = 0; x < conv.ow; ++x, acc += conv.row) {
      const int16_t *const first = staged + (y * op.stride[0] * conv.staged_width + x * op.stride[1]) * conv.c;
      for (int64_t v = 0; v < vectors; ++v) {
        const int32_t *w = weights + v * LANES;
        Vec sum = all(0);
        for (int64_t i = 0; i < op.kernel[0]; ++i) {
          for (int64_t j = 0; j < op.kernel[1]; ++j, w += vectors * LANES) {
            const int64_t at = (i * op.dilation[0] * conv.staged_width + j * op.dilation[1]) * conv.c;
            sum = add(sum, mul(widen(first + at + v * LANES), load(w)));
          }
        }
        store(acc + v * LANES, sum);
      }
    }
  }
}

inline void winograd_strip(const Conv &conv, int64_t images, int64_t rows, const ConvBuffers &buffers) {
  const int64_t down = round_up(rows, TILE) / TILE, across = round_up(conv.ow, TILE) / TILE;
  const int64_t inputs = conv.padded_inputs(), line = conv.staged_width * conv.c;
  const int64_t tiles = images * down * across;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t n = t / (down * across), ty = t / across % down, tx = t % across;
    const int16_t *const patch = reinterpret_cast<const int16_t *>(buffers.staged) + (n * conv.staged_rows + ty * TILE) * line + tx * TILE * conv.c;
    tile_to_spots(patch, line, conv.c, buffers.spots + t * SPOTS * inputs, inputs);
  }
  const int64_t pairs = round_up(conv.c, 2) / 2, vectors = output_vectors(conv.outs);
  const int64_t zero = 0;
  const Terms terms = {&zero, 1, pairs};
  const char *weights = static_cast<const char *>(conv.op.weights);
  for (int64_t k = 0; k < SPOTS; ++k, weights += vectors * LANES * 4 * pairs) {
    const char *const x = reinterpret_cast<const char *>(buffers.spots + k * inputs);
    dot_row<Words>(x, SPOTS * inputs * 2, tiles, terms, weights, nullptr, buffers.sums + k * vectors * LANES,
                   SPOTS * vectors * LANES, vectors);
  }
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t n = t / (down * across), y = t / across % down * TILE, x = t % across * TILE;
    int32_t *const acc = buffers.acc + ((n * rows + y) * conv.ow + x) * conv.row;
    tile_from_spots(buffers.sums + t * SPOTS * vectors * LANES, vectors, acc, conv.ow * conv.row, conv.row,
                    rows - y, conv.ow - x);
  }
}

// Takes a strip's sums: `pixels` rows of int32, or of int64, from output pixel `first` on.
struct Finish {
  virtual void operator()(int64_t first, int64_t pixels, Rows<const void *> sums) const = 0;

protected:
  ~Finish() = default;
};

// The sums of one staged image of a strip; WINOGRAD takes all images at once instead.
inline void image_sums(const Conv &conv, const char *staged, int64_t image, int64_t rows, const ConvBuffers &buffers) {
  const int64_t pixels = image * rows * conv.ow;
  int32_t *const acc = buffers.acc + pixels * conv.row;
  switch (conv.method) {
  case Method::WORDS: return dot_image<Words>(conv, staged, 2, rows, buffers.offsets, acc);
#ifdef HWQ_ENGINE_VNNI
  case Method::BYTES: return dot_image<Bytes>(conv, staged, 1, rows, buffers.offsets, acc);
#endif
  case Method::DEPTHWISE: return depthwise_image(conv, reinterpret_cast<const int16_t *>(staged), rows, acc);
  case Method::PLAIN: {
    const auto plain = conv.op.wide ? plain_image<int64_t> : plain_image<int32_t>;
    return plain(conv.op, staged, conv.staged_width, conv.c, rows, conv.ow, buffers.long_acc + pixels * conv.outs);
  }
  default: return;
  }
}

// All sums, strip by strip, in order.
inline void convolve(const Conv &conv, const void *in, Type type, const ConvBuffers &buffers, const Finish &finish) {
  const int64_t image_bytes = conv.h * conv.w * conv.c * type_bytes(type);
  const Staging staging = conv.staging();
  for (int64_t n = 0; n < conv.images; n += conv.strip_images) {
    const int64_t images = conv.strip_images < conv.images - n ? conv.strip_images : conv.images - n;
    for (int64_t y = 0; y < conv.oh; y += conv.strip_rows) {
      const int64_t rows = conv.strip_rows < conv.oh - y ? conv.strip_rows : conv.oh - y;
      for (int64_t i = 0; i < images; ++i) {
        const Image image = {static_cast<const char *>(in) + (n + i) * image_bytes, type, conv.h, conv.w, conv.c};
        char *const staged = buffers.staged + i * conv.staged_bytes();
        stage(image, y * conv.op.stride[0] - top(conv.op), conv.staged_rows, staging, staged);
        image_sums(conv, staged, i, rows, buffers);
      }
      if (conv.method == Method::WINOGRAD) winograd_strip(conv, images, rows, buffers);
      Rows<const void *> sums = {buffers.acc, Type::S32, conv.row};
      if (conv.method == Method::PLAIN) sums = {buffers.long_acc, Type::S64, conv.outs};
      finish((n * conv.oh + y) * conv.ow, images * rows * conv.ow, sums);
    }
  }
}

} // namespace hwq::engine

#endif
