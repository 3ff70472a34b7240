// Copies rows of an image, with their zero padding, into the form a kernel reads.
#ifndef HWQ_ENGINE_STAGE_H
#define HWQ_ENGINE_STAGE_H

#include "convert.h"

namespace hwq::engine {

struct Image {
  const void *data; // (h, w, c)
  Type type;
  int64_t h, w, c;
};

// What a kernel reads: rows of `width` positions, `left` of them before the image's first column, as integers of `type`.
// Each is combined with `flip` by exclusive or, zeros too (bytes only).
struct Staging {
  Type type;
  int64_t left, width;
  int flip;
};

// Rows y .. y + rows, zeros outside the image, to (rows, width, c).
inline void stage(const Image &image, int64_t y, int64_t rows, const Staging &to, void *out) {
  const int64_t bytes = image.c * type_bytes(to.type), columns = image.w < to.width - to.left ? image.w : to.width - to.left;
  const int64_t before = to.left * bytes, taken = columns * bytes, line = to.width * bytes;
  const int64_t row_bytes = image.w * image.c * type_bytes(image.type), values = columns * image.c;
  char *row = static_cast<char *>(out);
  for (int64_t r = y; r < y + rows; ++r, row += line) {
    if (r < 0 || r >= image.h) {
      memset(row, to.flip, static_cast<size_t>(line));
      continue;
    }
    memset(row, to.flip, static_cast<size_t>(before));
    convert({static_cast<const char *>(image.data) + r * row_bytes, image.type, values}, {row + before, to.type, values}, 1,
            values);
    if (to.flip) {
      for (int64_t i = before; i < before + taken; ++i) row[i] = static_cast<char>(row[i] ^ to.flip);
    }
    memset(row + before + taken, to.flip, static_cast<size_t>(line - before - taken));
  }
}

} // namespace hwq::engine

#endif
