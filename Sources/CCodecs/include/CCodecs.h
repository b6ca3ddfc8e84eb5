// Thin, bounded entrances to libjpeg-turbo, libpng, libwebp and zlib.
//
// Every function takes one block of memory, never terminates the process, allocates nothing whose size is taken from
// the input before that size has passed the caller's limit, and reports failure as a status with one line of text.
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef enum {
    TC_OK = 0,
    /// The bytes are not a complete, valid file of the kind.
    TC_MALFORMED = 1,
    /// The header asks for more pixels than the caller allows; `height` and `width` are filled in.
    TC_TOO_LARGE = 2,
    TC_OUT_OF_MEMORY = 3,
} tc_status;

/// A decoded image: 8-bit, interleaved, rows from the top, no padding.
typedef struct {
    uint8_t *pixels;  // height * width * channels bytes, to be freed with tc_free
    int64_t height;
    int64_t width;
    int32_t channels;  // 1 (grey) or 3 (RGB)
    char message[200];  // why, when the status is not TC_OK
} tc_image;

/// JPEG of any colour space that libjpeg reads; CMYK and YCCK come back as RGB by Pillow's formula.
tc_status tc_decode_jpeg(const uint8_t *bytes, size_t count, uint64_t pixel_limit, tc_image *image);

/// PNG of any depth and colour type; the alpha channel is dropped, 16-bit samples keep their high byte.
tc_status tc_decode_png(const uint8_t *bytes, size_t count, uint64_t pixel_limit, tc_image *image);

/// Still WebP, lossy or lossless; the alpha channel is dropped.
tc_status tc_decode_webp(const uint8_t *bytes, size_t count, uint64_t pixel_limit, tc_image *image);

/// Writes 8-bit grey (channels 1) or RGB (channels 3). The result goes to `*bytes`, to be freed with tc_free.
tc_status tc_encode_png(const uint8_t *pixels, int64_t height, int64_t width, int32_t channels, uint8_t **bytes,
                        size_t *count);

void tc_free(void *memory);

typedef enum {
    /// The stream ended inside `capacity` bytes and its checksum is right.
    TC_GZIP_ENDED = 0,
    /// `capacity` bytes were produced and the stream has more.
    TC_GZIP_MORE = 1,
    TC_GZIP_TRUNCATED = 2,
    TC_GZIP_CORRUPT = 3,
} tc_gzip_status;

/// Inflates at most `capacity` bytes of a gzip stream (members may follow each other) into `output`.
tc_gzip_status tc_gunzip(const uint8_t *bytes, size_t count, uint8_t *output, size_t capacity, size_t *produced);
