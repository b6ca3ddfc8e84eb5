#include "common.h"

#include <setjmp.h>

#include <jpeglib.h>

#include <jerror.h>

/// A progressive file may repeat scans without end ("JPEG bomb"); honest encoders write about ten.
enum { max_scans = 200 };

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf escape;
    char message[JMSG_LENGTH_MAX];
} error_manager;

static void leave(j_common_ptr info) {
    error_manager *errors = (error_manager *)info->err;
    info->err->format_message(info, errors->message);
    longjmp(errors->escape, 1);
}

/// libjpeg fills damaged or missing parts with grey and only warns; here every warning that means lost pixels is an
/// error. The others (stray bytes between markers, odd version numbers) are common in good photographs.
static void judge_warning(j_common_ptr info, int level) {
    if (level >= 0) return;
    switch (info->err->msg_code) {
        case JWRN_JPEG_EOF:
        case JWRN_HIT_MARKER:
        case JWRN_HUFF_BAD_CODE:
        case JWRN_ARITH_BAD_CODE:
        case JWRN_MUST_RESYNC: leave(info);
    }
}

static void ignore_output(j_common_ptr info) { (void)info; }

static void watch_scans(j_common_ptr info) {
    j_decompress_ptr decoder = (j_decompress_ptr)info;
    if (decoder->input_scan_number <= max_scans) return;
    error_manager *errors = (error_manager *)info->err;
    snprintf(errors->message, sizeof errors->message, "more than %d progressive scans", max_scans);
    longjmp(errors->escape, 1);
}

/// In place, four bytes to three. Stored inverted, as Adobe's programs write and Pillow assumes.
static void cmyk_to_rgb(const uint8_t *cmyk, uint8_t *rgb, size_t pixels) {
    for (size_t i = 0; i < pixels; i++) {
        unsigned light = cmyk[4 * i + 3];  // 255 - black
        for (int c = 0; c < 3; c++) {
            unsigned product = (255u - cmyk[4 * i + c]) * light + 128;
            rgb[3 * i + c] = (uint8_t)(light - (((product >> 8) + product) >> 8));
        }
    }
}

tc_status tc_decode_jpeg(const uint8_t *bytes, size_t count, uint64_t pixel_limit, tc_image *image) {
    memset(image, 0, sizeof *image);
    struct jpeg_decompress_struct decoder;
    struct jpeg_progress_mgr progress = {.progress_monitor = watch_scans};
    error_manager errors;
    uint8_t *volatile row = NULL;

    decoder.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = leave;
    errors.base.emit_message = judge_warning;
    errors.base.output_message = ignore_output;
    errors.message[0] = 0;
    if (setjmp(errors.escape)) {
        jpeg_destroy_decompress(&decoder);
        free(row);
        return tc_fail(image, TC_MALFORMED, errors.message);
    }
    jpeg_create_decompress(&decoder);
    decoder.progress = &progress;
    jpeg_mem_src(&decoder, bytes, count);
    jpeg_read_header(&decoder, TRUE);

    int four = decoder.jpeg_color_space == JCS_CMYK || decoder.jpeg_color_space == JCS_YCCK;
    int grey = decoder.jpeg_color_space == JCS_GRAYSCALE;
    decoder.out_color_space = four ? JCS_CMYK : grey ? JCS_GRAYSCALE : JCS_RGB;
    tc_status status = tc_allocate(image, decoder.image_height, decoder.image_width, grey ? 1 : 3, pixel_limit);
    if (status != TC_OK) {
        jpeg_destroy_decompress(&decoder);
        return tc_fail(image, status, NULL);
    }
    jpeg_start_decompress(&decoder);
    size_t stride = (size_t)image->width * (size_t)image->channels;
    if (four && !(row = malloc((size_t)image->width * 4))) {
        jpeg_destroy_decompress(&decoder);
        return tc_fail(image, TC_OUT_OF_MEMORY, "no memory for a row");
    }
    while (decoder.output_scanline < decoder.output_height) {
        uint8_t *target = image->pixels + stride * decoder.output_scanline;
        JSAMPROW line = four ? row : target;
        jpeg_read_scanlines(&decoder, &line, 1);
        if (four) cmyk_to_rgb(row, target, (size_t)image->width);
    }
    jpeg_finish_decompress(&decoder);
    jpeg_destroy_decompress(&decoder);
    free(row);
    return TC_OK;
}
