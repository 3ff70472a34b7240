// Self-checking test bench: runs the golden images, compares every op, exits 1 on the first layer that
// differs and names it. In C/RTL co-simulation only the output is visible, and only it is compared.
// Data: tb_data/ in the working folder or above it, or the folder given as the first argument.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <string>
#include <vector>

#include "harness.h"

using namespace hwq_project;

static std::string data_folder;

enum found_data { absent, damaged, whole };

// Integers of tb_data/<name>.dat, one a line.
static found_data read_data(const std::string &name, std::vector<long long> &values) {
  FILE *file = fopen((data_folder + "/" + name + ".dat").c_str(), "r");
  if (!file) return absent;
  long long value;
  int found;
  while ((found = fscanf(file, "%lld", &value)) == 1) values.push_back(value);
  const bool to_the_end = found == EOF && !ferror(file);
  fclose(file);
  return to_the_end ? whole : damaged;
}

static bool find_data(int argc, char **argv) {
  std::string up;
  for (int level = 0; level < 7; ++level, up += "../") {
    data_folder = argc > 1 ? std::string(argv[1]) : up + "tb_data";
    std::vector<long long> probe;
    if (read_data("pixels", probe) != absent) return true;
  }
  return false;
}

// One recorded code, whatever its width.
static long long recorded(const std::vector<char> &bytes, const op_info &op, long long i) {
  const char *at = &bytes[i * op.bytes];
  int64_t wide = 0;
  switch (op.bytes) {
  case 1: wide = op.is_signed ? *reinterpret_cast<const int8_t *>(at) : *reinterpret_cast<const uint8_t *>(at); break;
  case 2: { int16_t x; memcpy(&x, at, 2); wide = op.is_signed ? x : static_cast<uint16_t>(x); break; }
  case 4: { int32_t x; memcpy(&x, at, 4); wide = op.is_signed ? x : static_cast<int64_t>(static_cast<uint32_t>(x)); break; }
  default: memcpy(&wide, at, 8);
  }
  return wide;
}

static bool differs(const op_info &op, long long image, long long index, long long expected, long long got) {
  if (expected == got) return false;
  printf("MISMATCH: layer %s, image %lld, value %lld: expected %lld, got %lld\n", op.name, image, index, expected, got);
  return true;
}

int main(int argc, char **argv) {
  if (!find_data(argc, argv)) {
    printf("ERROR: no golden vectors: tb_data/pixels.dat not found\n");
    return 2;
  }
  std::vector<long long> wide;
  const bool readable = read_data("pixels", wide) == whole;
  const std::vector<uint8_t> pixels(wide.begin(), wide.end());
  const long long count = static_cast<long long>(pixels.size()) / ops[0].size;
  if (!readable || count < 1 || static_cast<long long>(pixels.size()) != count * ops[0].size) {
    printf("ERROR: tb_data/pixels.dat does not hold whole images\n");
    return 2;
  }
  std::vector<std::vector<long long> > golden(op_count);
  for (int i = 0; i < op_count; ++i) {
    const found_data found = read_data(ops[i].file, golden[i]);
    if (found == whole && static_cast<long long>(golden[i].size()) == count * ops[i].size) continue;
    golden[i].clear();
    if (found != absent || i == op_count - 1) { // only an op within may do without
      printf("ERROR: tb_data/%s.dat is missing or not whole\n", ops[i].file);
      return 2;
    }
  }

  long long compared = 0;
  for (long long n = 0; n < count; ++n) {
    std::vector<std::vector<char> > codes(op_count);
    std::vector<long long> result(ops[op_count - 1].size);
#if HWQ_SIM
    std::vector<hwq::sim::tap_slot> slots(op_count);
    for (int i = 0; i < op_count; ++i) {
      codes[i].resize(ops[i].size * ops[i].bytes);
      slots[i].place = golden[i].empty() ? NULL : &codes[i][0];
      slots[i].done = 0;
    }
    hwq::sim::taps() = &slots[0];
#endif
    const int failed = hwq::sim::run_image(&pixels[n * ops[0].size], &result[0]);
#if HWQ_SIM
    hwq::sim::taps() = NULL;
    for (int i = 0; i < op_count; ++i) {
      if (slots[i].done != static_cast<size_t>(ops[i].size)) continue; // not visible here
      for (long long k = 0; k < ops[i].size; ++k, ++compared) {
        if (differs(ops[i], n, k, golden[i][n * ops[i].size + k], recorded(codes[i], ops[i], k))) return 1;
      }
    }
#endif
    if (failed) {
      printf("MISMATCH: image %lld: a stream was left over or ran dry\n", n);
      return 1;
    }
    const op_info &last = ops[op_count - 1];
    for (long long k = 0; k < last.size; ++k, ++compared) {
      if (differs(last, n, k, golden[op_count - 1][n * last.size + k], result[k])) return 1;
    }
  }
  printf("PASS: %lld values of %lld image(s) equal the golden vectors\n", compared, count);
  return 0;
}
