#include "common.h"

#include <webp/decode.h>

static const char *explain(VP8StatusCode code) {
    switch (code) {
        case VP8_STATUS_OUT_OF_MEMORY: return "no memory for the WebP reader";
        case VP8_STATUS_NOT_ENOUGH_DATA: return "the file ends early";
        case VP8_STATUS_UNSUPPORTED_FEATURE: return "the file uses a WebP feature that is not supported";
        default: return "the WebP stream is corrupt";
    }
}

tc_status tc_decode_webp(const uint8_t *bytes, size_t count, uint64_t pixel_limit, tc_image *image) {
    memset(image, 0, sizeof *image);
    WebPBitstreamFeatures features;
    VP8StatusCode code = WebPGetFeatures(bytes, count, &features);
    if (code != VP8_STATUS_OK) return tc_fail(image, TC_MALFORMED, explain(code));
    if (features.has_animation) return tc_fail(image, TC_MALFORMED, "animated WebP is not supported");

    // The decoder stops after the pixels; a container that promises more than there is was cut.
    uint64_t promised = count < 8 ? 0
                                  : 8 + ((uint64_t)bytes[4] | (uint64_t)bytes[5] << 8 | (uint64_t)bytes[6] << 16 |
                                         (uint64_t)bytes[7] << 24);
    if (promised > count) return tc_fail(image, TC_MALFORMED, "the file ends early");

    tc_status status = tc_allocate(image, (uint64_t)features.height, (uint64_t)features.width, 3, pixel_limit);
    if (status != TC_OK) return tc_fail(image, status, NULL);
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config)) return tc_fail(image, TC_MALFORMED, "libwebp has another version");
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = image->pixels;
    config.output.u.RGBA.stride = (int)image->width * 3;
    config.output.u.RGBA.size = (size_t)image->height * (size_t)image->width * 3;
    code = WebPDecode(bytes, count, &config);
    WebPFreeDecBuffer(&config.output);
    return code == VP8_STATUS_OK ? TC_OK : tc_fail(image, TC_MALFORMED, explain(code));
}
