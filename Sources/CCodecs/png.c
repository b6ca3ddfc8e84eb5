#include "common.h"

#include <png.h>

/// Text, colour profiles and other ancillary chunks are never needed: keep them from costing memory.
enum { max_ancillary_chunks = 64, max_chunk_bytes = 8 << 20, max_dimension = 1 << 20 };

typedef struct {
    const uint8_t *bytes;
    size_t count;
    size_t offset;
    char message[160];
} source;

static void read_bytes(png_structp png, png_bytep target, size_t count) {
    source *input = png_get_io_ptr(png);
    if (count > input->count - input->offset) png_error(png, "the file ends early");
    memcpy(target, input->bytes + input->offset, count);
    input->offset += count;
}

static void leave(png_structp png, png_const_charp message) {
    source *input = png_get_error_ptr(png);
    snprintf(input->message, sizeof input->message, "%s", message);
    png_longjmp(png, 1);
}

static void ignore_warning(png_structp png, png_const_charp message) {
    (void)png;
    (void)message;
}

tc_status tc_decode_png(const uint8_t *bytes, size_t count, uint64_t pixel_limit, tc_image *image) {
    memset(image, 0, sizeof *image);
    source input = {.bytes = bytes, .count = count};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &input, leave, ignore_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info) {
        png_destroy_read_struct(&png, NULL, NULL);
        return tc_fail(image, TC_OUT_OF_MEMORY, "no memory for the PNG reader");
    }
    if (setjmp(png_jmpbuf(png))) {
        png_destroy_read_struct(&png, &info, NULL);
        return tc_fail(image, TC_MALFORMED, input.message);
    }
    png_set_read_fn(png, &input, read_bytes);
    png_set_user_limits(png, max_dimension, max_dimension);
    png_set_chunk_cache_max(png, max_ancillary_chunks);
    png_set_chunk_malloc_max(png, max_chunk_bytes);
    png_read_info(png, info);

    int grey = !(png_get_color_type(png, info) & PNG_COLOR_MASK_COLOR);
    tc_status status = tc_allocate(image, png_get_image_height(png, info), png_get_image_width(png, info),
                                   grey ? 1 : 3, pixel_limit);
    if (status != TC_OK) {
        png_destroy_read_struct(&png, &info, NULL);
        return tc_fail(image, status, NULL);
    }
    png_set_expand(png);  // palette to RGB, 1/2/4-bit grey to 8, transparent colour to alpha
    png_set_strip_16(png);
    png_set_strip_alpha(png);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    size_t stride = (size_t)image->width * (size_t)image->channels;
    if (png_get_rowbytes(png, info) != stride) png_error(png, "unexpected row length");
    for (int pass = 0; pass < passes; pass++) {
        for (int64_t y = 0; y < image->height; y++) png_read_row(png, image->pixels + stride * (size_t)y, NULL);
    }
    png_read_end(png, NULL);
    png_destroy_read_struct(&png, &info, NULL);
    return TC_OK;
}

tc_status tc_encode_png(const uint8_t *pixels, int64_t height, int64_t width, int32_t channels, uint8_t **bytes,
                        size_t *count) {
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)width,
                       .height = (png_uint_32)height,
                       .format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB};
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
    *bytes = malloc(size);
    if (!*bytes) return TC_OUT_OF_MEMORY;
    if (png_image_write_to_memory(&image, *bytes, &size, 0, pixels, 0, NULL)) {
        *count = size;
        return TC_OK;
    }
    free(*bytes);
    *bytes = NULL;
    return TC_MALFORMED;
}

void tc_free(void *memory) { free(memory); }
