/* Pixels to the float planes of a batch (planes.py), mirrored and coloured on the way: one pass over
   memory where OpenCV and NumPy make several. Built when the package is installed, where there is a
   C compiler. Rounds as OpenCV does: its sums of two planes are doubles, its scaleAdd is one fused
   operation where the processor has that. */
#include <stddef.h>
#include <stdint.h>
#if defined(__x86_64__) && defined(__GNUC__)
#define AVX2 __attribute__((target("avx2,fma")))
#include <immintrin.h>
#endif

/* As augmentation.color_mixes says. */
struct mix {
    double red, green, blue, own, level, weights[3];
};

/* A coloured pixel's x becomes own * x + (red * R + green * G + offset + blue * B). */
struct color {
    double red, green, blue, own, offset;
};

static void write_pixel(const uint8_t *pixel, float *out, size_t area, const struct color *color)
{
    for (int k = 0; k < 3; k++)
        out[k * area] = pixel[k];
    if (color) {
        float blue = (float)color->blue, own = (float)color->own;
        float mix = (float)(pixel[0] * color->red + pixel[1] * color->green + color->offset);
        mix = pixel[2] * blue + mix;
        for (int k = 0; k < 3; k++)
            out[k * area] = pixel[k] * own + mix;
    }
}

static void write_picture(const uint8_t *pixels, float *out, size_t height, size_t width,
                          int mirror, const struct color *color)
{
    for (size_t y = 0; y < height; y++)
        for (size_t x = 0; x < width; x++)
            write_pixel(pixels + 3 * (y * width + (mirror ? width - 1 - x : x)),
                        out + y * width + x, height * width, color);
}

#ifdef AVX2
AVX2 static inline __attribute__((always_inline)) __m256 floats(__m128i bytes)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}

AVX2 static inline __attribute__((always_inline)) __m128 sum_as_doubles(
    __m128 red, __m128 green, const struct color *color)
{
    __m256d sum = _mm256_add_pd(
        _mm256_mul_pd(_mm256_cvtps_pd(red), _mm256_set1_pd(color->red)),
        _mm256_mul_pd(_mm256_cvtps_pd(green), _mm256_set1_pd(color->green)));
    return _mm256_cvtpd_ps(_mm256_add_pd(sum, _mm256_set1_pd(color->offset)));
}

/* Eight pixels, the first eight bytes of each colour. */
AVX2 static inline __attribute__((always_inline)) void write_eight(
    const __m128i bytes[3], float *out, size_t area, const struct color *color)
{
    __m256 values[3];
    for (int k = 0; k < 3; k++)
        values[k] = floats(bytes[k]);
    if (color) {
        __m256 mix = _mm256_set_m128(
            sum_as_doubles(_mm256_extractf128_ps(values[0], 1),
                           _mm256_extractf128_ps(values[1], 1), color),
            sum_as_doubles(_mm256_castps256_ps128(values[0]),
                           _mm256_castps256_ps128(values[1]), color));
        mix = _mm256_fmadd_ps(values[2], _mm256_set1_ps((float)color->blue), mix);
        for (int k = 0; k < 3; k++)
            values[k] = _mm256_fmadd_ps(values[k], _mm256_set1_ps((float)color->own), mix);
    }
    for (int k = 0; k < 3; k++)
        _mm256_storeu_ps(out + k * area, values[k]);
}

/* 16 pixels at a time: where[k][part] says which bytes of a third of their 48 are of colour k. */
AVX2 static void write_picture_avx2(const uint8_t *pixels, float *out, size_t height, size_t width,
                                    int mirror, const struct color *color)
{
    const size_t area = height * width;
    __m128i where[3][3];
    for (int k = 0; k < 3; k++)
        for (int part = 0; part < 3; part++) {
            int8_t places[16]; /* a negative one gives a zero */
            for (int i = 0; i < 16; i++) {
                int place = 3 * (mirror ? 15 - i : i) + k - 16 * part;
                places[i] = (int8_t)(place >= 0 && place < 16 ? place : -1);
            }
            where[k][part] = _mm_loadu_si128((const __m128i *)places);
        }
    for (size_t y = 0; y < height; y++) {
        const uint8_t *row = pixels + 3 * y * width;
        float *to = out + y * width;
        size_t x = 0;
        for (; x + 16 <= width; x += 16) {
            const uint8_t *from = row + 3 * (mirror ? width - 16 - x : x);
            __m128i bytes[3], late[3];
            for (int k = 0; k < 3; k++) {
                bytes[k] = _mm_setzero_si128();
                for (int part = 0; part < 3; part++)
                    bytes[k] = _mm_or_si128(bytes[k], _mm_shuffle_epi8(
                        _mm_loadu_si128((const __m128i *)(from + 16 * part)), where[k][part]));
                late[k] = _mm_srli_si128(bytes[k], 8);
            }
            write_eight(bytes, to + x, area, color);
            write_eight(late, to + x + 8, area, color);
        }
        for (; x < width; x++) { /* the last few, each as the first of eight */
            const uint8_t *from = row + 3 * (mirror ? width - 1 - x : x);
            __m128i bytes[3];
            float eight[24];
            for (int k = 0; k < 3; k++)
                bytes[k] = _mm_cvtsi32_si128(from[k]);
            write_eight(bytes, eight, 8, color);
            for (int k = 0; k < 3; k++)
                to[x + k * area] = eight[8 * k];
        }
    }
}
#endif

static void add_bytes(const uint8_t *pixels, size_t count, uint64_t sums[3])
{
    for (size_t i = 0; i < count; i++, pixels += 3)
        for (int k = 0; k < 3; k++)
            sums[k] += pixels[k];
}

#ifdef AVX2
AVX2 static void add_bytes_avx2(const uint8_t *pixels, size_t count, uint64_t sums[3])
{
    __m128i mine[3][3], total[3]; /* which bytes of a third of 48 are of colour k */
    uint64_t halves[2];
    for (int k = 0; k < 3; k++) {
        total[k] = _mm_setzero_si128();
        for (int part = 0; part < 3; part++) {
            uint8_t bytes[16];
            for (int i = 0; i < 16; i++)
                bytes[i] = (16 * part + i) % 3 == k ? 255 : 0;
            mine[k][part] = _mm_loadu_si128((const __m128i *)bytes);
        }
    }
    for (; count >= 16; count -= 16, pixels += 48)
        for (int part = 0; part < 3; part++) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)(pixels + 16 * part));
            for (int k = 0; k < 3; k++)
                total[k] = _mm_add_epi64(total[k], _mm_sad_epu8(
                    _mm_and_si128(bytes, mine[k][part]), _mm_setzero_si128()));
        }
    for (int k = 0; k < 3; k++) {
        _mm_storeu_si128((__m128i *)halves, total[k]);
        sums[k] = halves[0] + halves[1];
    }
    add_bytes(pixels, count, sums);
}
#endif

/* pixels: uint8 (count, height, width, 3), of the pictures from the first on. Of the whole batch:
   out, float (n, 3, height, width); mirrored and colored, a byte a picture; mixes, read where one is
   coloured. */
void write_planes(const uint8_t *pixels, float *out, const uint8_t *mirrored,
                  const uint8_t *colored, const struct mix *mixes, size_t first, size_t count,
                  size_t height, size_t width)
{
    const size_t area = height * width;
    void (*write)(const uint8_t *, float *, size_t, size_t, int, const struct color *) =
        write_picture;
    void (*add)(const uint8_t *, size_t, uint64_t[3]) = add_bytes;
#ifdef AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        write = write_picture_avx2;
        add = add_bytes_avx2;
    }
#endif
    for (size_t i = first; i < first + count; i++, pixels += 3 * area) {
        struct color color;
        if (colored[i]) {
            const struct mix *mix = mixes + i;
            double mean = 0;
            if (mix->level != 0) {
                uint64_t sums[3] = {0, 0, 0};
                add(pixels, area, sums);
                for (int k = 0; k < 3; k++)
                    mean += mix->weights[k] * ((double)sums[k] * (1.0 / (double)area));
            }
            color = (struct color){mix->red, mix->green, mix->blue, mix->own, mix->level * mean};
        }
        write(pixels, out + 3 * i * area, height, width, mirrored[i], colored[i] ? &color : NULL);
    }
}
