// Compresses and decompresses text and noise at several levels, in one piece, streaming, in several threads if the library
// has them, and with a dictionary; damaged input must be refused.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#define ZSTD_STATIC_LINKING_ONLY
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zdict.h>
#include <zstd.h>

enum { size = 1 << 20, samples = 400, sample_size = 500 };
static unsigned char data[size], back[size];

static unsigned long long hash(const void* bytes, size_t n) {
  unsigned long long h = 14695981039346656037ULL;
  for (size_t i = 0; i < n; i++) h = (h ^ ((const unsigned char*)bytes)[i]) * 1099511628211ULL;
  return h;
}

static void fill(void) {
  static const char* words[] = {"section ", "relocation ", "symbol ", "archive ", "module ", "stub ", "frame ", "offset "};
  unsigned random = 1;
  size_t at = 0;
  while (at < size) {
    random = random * 1664525 + 1013904223;
    if (at > size / 2 && at < size / 2 + 100000) {
      data[at++] = (unsigned char)(random >> 24);
      continue;
    }
    const char* word = words[random >> 29];
    size_t n = strlen(word);
    if (n > size - at) n = size - at;
    memcpy(data + at, word, n);
    at += n;
  }
}

int main(void) {
  fill();
  size_t bound = ZSTD_compressBound(size);
  unsigned char* packed = malloc(bound);
  static const int levels[] = {-5, 1, 3, 6, 9, 13, 19};
  for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
    size_t n = ZSTD_compress(packed, bound, data, levels[i] == 19 ? size / 4 : size, levels[i]);
    memset(back, 0, size);
    size_t m = ZSTD_decompress(back, size, packed, n);
    printf("level %d: %zu %016llx -> %zu %d\n", levels[i], n, hash(packed, n), m, memcmp(data, back, m) == 0);
  }
  ZSTD_CCtx* compress = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(compress, ZSTD_c_checksumFlag, 1);
  ZSTD_CCtx_setParameter(compress, ZSTD_c_enableLongDistanceMatching, 1);
  printf("workers %d\n", !ZSTD_isError(ZSTD_CCtx_setParameter(compress, ZSTD_c_nbWorkers, 2)));
  ZSTD_inBuffer in = {data, size, 0};
  ZSTD_outBuffer out = {packed, bound, 0};
  while (ZSTD_compressStream2(compress, &out, &in, ZSTD_e_end) != 0) {
  }
  ZSTD_DCtx* decompress = ZSTD_createDCtx();
  ZSTD_inBuffer again = {packed, 0, 0};
  ZSTD_outBuffer result = {back, size, 0};
  memset(back, 0, size);
  while (result.pos < size && again.pos < out.pos) {
    again.size = again.pos + 4096 < out.pos ? again.pos + 4096 : out.pos;
    if (ZSTD_isError(ZSTD_decompressStream(decompress, &result, &again))) break;
  }
  printf("stream %zu %d\n", result.pos, memcmp(data, back, size) == 0);
  static size_t sizes[samples];
  for (int i = 0; i < samples; i++) sizes[i] = sample_size;
  unsigned char dictionary[8192];
  size_t d = ZDICT_trainFromBuffer(dictionary, sizeof dictionary, data, sizes, samples);
  printf("dictionary %d %zu\n", !ZDICT_isError(d), ZDICT_isError(d) ? 0 : d);
  size_t with = ZSTD_compress_usingDict(compress, packed, bound, data + 300000, 600, dictionary, d, 3);
  size_t m = ZSTD_decompress_usingDict(decompress, back, size, packed, with, dictionary, d);
  printf("with dictionary %d %zu %d\n", with < 600, m, memcmp(data + 300000, back, m) == 0);
  size_t n = ZSTD_compress(packed, bound, data, size, 3);
  packed[n / 2] ^= 0x55;
  packed[5] ^= 0xff;
  m = ZSTD_decompress(back, size, packed, n);
  printf("damaged %d %s\n", ZSTD_isError(m) != 0, ZSTD_isError(m) ? ZSTD_getErrorName(m) : "-");
  m = ZSTD_decompress(back, size, "garbage", 7);
  printf("garbage %s\n", ZSTD_getErrorName(m));
  printf("version %u\n", ZSTD_versionNumber());
  ZSTD_freeCCtx(compress);
  ZSTD_freeDCtx(decompress);
  free(packed);
  return 0;
}
