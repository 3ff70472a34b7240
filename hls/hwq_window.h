// Sliding window over a feature map: line buffer in, the pixels under the kernel out.
#ifndef HWQ_WINDOW_H
#define HWQ_WINDOW_H

#include "hwq_pragmas.h"
#include "hwq_stream.h"
#include "hwq_types.h"

namespace hwq {

// CFG: in_t; height, width, channels; kernel_h/_w, stride_h/_w, dilation_h/_w;
// pad_top, pad_bottom, pad_left, pad_right; lanes (divides channels); block: elements of an output word, a
// multiple of lanes; channel_major; fill().
// Padding is stored like pixels, with the value fill(). The buffer is a circle of
// dilation_h * (kernel_h - 1) + 1 padded rows, one word wide: one read or write a cycle.
// An output pixel's words leave in the order
//   channel_major = false   kernel row, kernel column, channel   (for dense)
//   channel_major = true    channel block, kernel row, kernel column   (depthwise, pools)
template <class CFG> struct window_unit {
  typedef typename CFG::in_t in_t;
  typedef word<in_t, CFG::lanes> in_word;
  typedef word<in_t, CFG::block> out_word;

  static const int folds = CFG::channels / CFG::lanes;
  static const int padded_h = CFG::pad_top + CFG::height + CFG::pad_bottom;
  static const int padded_w = CFG::pad_left + CFG::width + CFG::pad_right;
  static const int reach_h = CFG::dilation_h * (CFG::kernel_h - 1);
  static const int reach_w = CFG::dilation_w * (CFG::kernel_w - 1);
  static const int rows = reach_h + 1;

  // One kernel position of one channel block into the word under construction.
  static void put(const in_word &x, out_word &y, int &at, stream<out_word> &out) {
    for (int l = 0; l < CFG::lanes; ++l) {
      HWQ_UNROLL
      y.v[at + l] = x.v[l];
    }
    at += CFG::lanes;
    if (at == CFG::block) {
      out.write(y);
      at = 0;
    }
  }

  // The window whose lower right pixel is (slot, x); `oldest` is the slot of its first row.
  static void emit(const in_word (&lines)[rows][padded_w][folds], int oldest, int x, stream<out_word> &out) {
    out_word y;
    HWQ_PACK(y)
    int at = 0;
    const int blocks = CFG::channel_major ? folds : 1;
    const int inner = CFG::channel_major ? 1 : folds;
    for (int b = 0; b < blocks; ++b) {
      int slot = oldest;
      for (int i = 0; i < CFG::kernel_h; ++i) {
        for (int j = 0; j < CFG::kernel_w; ++j) {
          for (int f = 0; f < inner; ++f) {
            HWQ_PIPELINE
            put(lines[slot][x - reach_w + j * CFG::dilation_w][b + f], y, at, out);
          }
        }
        slot += CFG::dilation_h;
        if (slot >= rows) slot -= rows;
      }
    }
  }

  // How far n is past `reach`, counted in strides: 0 when a window ends at n.
  static void step(int &phase, int stride) { phase = phase == stride - 1 ? 0 : phase + 1; }

  static void run(stream<in_word> &in, stream<out_word> &out) {
    in_word lines[rows][padded_w][folds];
    HWQ_PACK(lines)
    HWQ_RAM(lines)
    int slot = 0;
    int phase_y = 0;
    for (int y = 0; y < padded_h; ++y) {
      const bool inside_y = y >= CFG::pad_top && y < CFG::pad_top + CFG::height;
      const int oldest = slot == rows - 1 ? 0 : slot + 1;
      int phase_x = 0;
      for (int x = 0; x < padded_w; ++x) {
        const bool inside = inside_y && x >= CFG::pad_left && x < CFG::pad_left + CFG::width;
        for (int f = 0; f < folds; ++f) {
          HWQ_PIPELINE
          in_word value;
          HWQ_PACK(value)
          if (inside) {
            value = in.read();
          } else {
            for (int l = 0; l < CFG::lanes; ++l) {
              HWQ_UNROLL
              value.v[l] = CFG::fill();
            }
          }
          lines[slot][x][f] = value;
        }
        if (y >= reach_h && x >= reach_w) {
          if (phase_y == 0 && phase_x == 0) emit(lines, oldest, x, out);
          step(phase_x, CFG::stride_w);
        }
      }
      if (y >= reach_h) step(phase_y, CFG::stride_h);
      slot = oldest;
    }
  }
};

template <class CFG>
void window(stream<word<typename CFG::in_t, CFG::lanes> > &in, stream<word<typename CFG::in_t, CFG::block> > &out) {
  window_unit<CFG>::run(in, out);
}

} // namespace hwq

#endif
