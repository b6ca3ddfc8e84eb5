#include "CCodecs.h"

#include <limits.h>
#include <string.h>

#include <zlib.h>

static uInt clamp(size_t count) { return count > UINT_MAX ? UINT_MAX : (uInt)count; }

tc_gzip_status tc_gunzip(const uint8_t *bytes, size_t count, uint8_t *output, size_t capacity, size_t *produced) {
    enum { gzip_window = 15 + 16 };
    z_stream stream;
    memset(&stream, 0, sizeof stream);
    *produced = 0;
    if (inflateInit2(&stream, gzip_window) != Z_OK) return TC_GZIP_CORRUPT;

    const uint8_t *input = bytes, *end = bytes + count;
    tc_gzip_status status = TC_GZIP_CORRUPT;
    for (;;) {
        // One byte beyond the capacity lets zlib reach the end of the stream and check the sum, or show that there is
        // more.
        uint8_t beyond;
        size_t room = capacity - *produced;
        stream.next_in = (Bytef *)input;
        stream.avail_in = clamp((size_t)(end - input));
        stream.next_out = room ? output + *produced : &beyond;
        stream.avail_out = room ? clamp(room) : 1;
        Bytef *start = stream.next_out;
        int code = inflate(&stream, Z_NO_FLUSH);
        size_t written = (size_t)(stream.next_out - start);
        size_t taken = (size_t)(stream.next_in - input);
        input += taken;
        if (room) {
            *produced += written;
        } else if (written) {
            status = TC_GZIP_MORE;
            break;
        }
        if (code == Z_STREAM_END) {
            status = TC_GZIP_ENDED;
            if (end - input < 2 || input[0] != 0x1f || input[1] != 0x8b) break;
            if (inflateReset(&stream) != Z_OK) break;
        } else if (code == Z_BUF_ERROR || (code == Z_OK && !written && !taken)) {
            status = TC_GZIP_TRUNCATED;
            break;
        } else if (code != Z_OK) {
            status = TC_GZIP_CORRUPT;
            break;
        }
    }
    inflateEnd(&stream);
    return status;
}
