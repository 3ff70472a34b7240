// The engine's C interface: runs a network, given as a list of ops, on a batch of images. Exact; see docs/engine.md.
// Keeps no state: a plan, its packed weights and the working memory all belong to the caller.
#include "layout.h"

#define HWQ_EXPORT extern "C" __attribute__((visibility("default")))

using namespace hwq::engine;

// Changes with every change of `Op`, of `Audit` or of a packed layout.
HWQ_EXPORT int64_t hwq_engine_abi() { return 1000000 * 4 + 1000 * static_cast<int64_t>(sizeof(Audit)) + static_cast<int64_t>(sizeof(Op)); }

// Whether this CPU has the instructions that the library was compiled for.
HWQ_EXPORT int hwq_engine_runs_here() {
#if defined(HWQ_ENGINE_VNNI) && !defined(HWQ_ENGINE_SIMDE)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
#elif defined(HWQ_ENGINE_AVX2)
  return __builtin_cpu_supports("avx2");
#else
  return 1;
#endif
}

// 32-bit lanes of a vector: what packed weights and constants are padded to.
HWQ_EXPORT int64_t hwq_engine_lanes() { return LANES; }

// Bytes of working memory for `images` images at a time. kept: `count` flags, the outputs that are wanted. audits: null, or
// one an op.
HWQ_EXPORT int64_t hwq_engine_room(const Op *ops, int64_t count, const uint8_t *kept, int64_t images, Audit *audits) {
  return Layout(ops, count, kept, images, audits).bytes();
}

// pixels: `images` of (H, W, C) uint8. outputs: per op null, or room for images * size codes of `kept_bytes`.
// audits: as above; their counts are added to. work: hwq_engine_room bytes on a 64-byte boundary, for this call alone. 0, or 1 when `bytes` are too few.
HWQ_EXPORT int hwq_engine_run(const Op *ops, int64_t count, const uint8_t *pixels, int64_t images, void *const *outputs,
                              Audit *audits, char *work, int64_t bytes) {
  std::vector<uint8_t> kept(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) kept[static_cast<size_t>(i)] = outputs[i] != nullptr;
  const Layout layout(ops, count, kept.data(), images, audits);
  if (bytes < layout.bytes()) return 1;
  std::vector<char *> data(static_cast<size_t>(count), nullptr);
  for (int64_t i = 0; i < count; ++i)
    if (layout.stored(i)) data[static_cast<size_t>(i)] = work + layout.place[static_cast<size_t>(i)];
  const Tensors tensors = {ops, data.data(), images, audits};
  for (int64_t i = 0; i < count; ++i) {
    if (!layout.stored(i)) continue;
    Scratch scratch(work + layout.tensors);
    if (is(ops[i], Kind::INPUT)) memcpy(tensors.of(i), pixels, static_cast<size_t>(images * size_of(ops[i])));
    else run_step(tensors, i, layout.fused[static_cast<size_t>(i)], scratch);
    if (!outputs[i]) continue;
    const int64_t size = size_of(ops[i]);
    convert({tensors.of(i), type_of(ops[i]), size}, {outputs[i], kept_type(ops[i].kept_bytes), size}, images, size);
  }
  return 0;
}
