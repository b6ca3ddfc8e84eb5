#pragma once

#include "CCodecs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/// Checks the header's size against the limit, then allocates the pixels.
static inline tc_status tc_allocate(tc_image *image, uint64_t height, uint64_t width, int channels,
                                    uint64_t pixel_limit) {
    image->height = (int64_t)height;
    image->width = (int64_t)width;
    image->channels = channels;
    if (height == 0 || width == 0 || height > INT32_MAX || width > INT32_MAX) {
        snprintf(image->message, sizeof image->message, "the header says %llu x %llu pixels",
                 (unsigned long long)height, (unsigned long long)width);
        return TC_MALFORMED;
    }
    if (height * width > pixel_limit) return TC_TOO_LARGE;
    image->pixels = malloc((size_t)height * width * (size_t)channels);
    if (image->pixels) return TC_OK;
    snprintf(image->message, sizeof image->message, "no memory for %llu x %llu pixels", (unsigned long long)height,
             (unsigned long long)width);
    return TC_OUT_OF_MEMORY;
}

static inline tc_status tc_fail(tc_image *image, tc_status status, const char *message) {
    free(image->pixels);
    image->pixels = NULL;
    if (message) snprintf(image->message, sizeof image->message, "%s", message);
    return status;
}
