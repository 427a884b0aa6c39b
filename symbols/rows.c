/* The operator unit_rows (operators.py): one pass over memory in each direction. Built when the
   package is installed, where there is a C compiler. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

static float inner(const float *a, const float *b, size_t width)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < width; i++)
        sum += a[i] * b[i];
    return sum;
}

/* target = (a - along * b) * factor. The rows are far more than a cache holds, so they are written
   past it: a plain store would first read what it is about to replace, a third of the traffic. */
static void write_row(float *restrict target, const float *a, const float *b, float along,
                      float factor, size_t width)
{
    size_t i = 0;
#ifdef __SSE2__
    if ((uintptr_t)target % sizeof(__m128) == 0)
        for (; i + 4 <= width; i += 4) {
            __m128 rest = _mm_sub_ps(_mm_loadu_ps(a + i),
                                     _mm_mul_ps(_mm_set1_ps(along), _mm_loadu_ps(b + i)));
            _mm_stream_ps(target + i, _mm_mul_ps(rest, _mm_set1_ps(factor)));
        }
#endif
    for (; i < width; i++)
        target[i] = (a[i] - along * b[i]) * factor;
}

static void written(void)
{
#ifdef __SSE2__
    _mm_sfence(); /* before another thread may read it */
#endif
}

void unit_forward(const float *weight, float *restrict unit, float *restrict scale, size_t rows,
                  size_t width, float epsilon)
{
#pragma omp parallel
    {
#pragma omp for
        for (size_t j = 0; j < rows; j++) {
            const float *w = weight + j * width;
            scale[j] = 1 / sqrtf(inner(w, w, width) + epsilon);
            write_row(unit + j * width, w, w, 0, scale[j], width);
        }
        written();
    }
}

void unit_backward(const float *unit, const float *scale, const float *outer,
                   float *restrict gradient, size_t rows, size_t width)
{
#pragma omp parallel
    {
#pragma omp for
        for (size_t j = 0; j < rows; j++) {
            const float *u = unit + j * width, *g = outer + j * width;
            write_row(gradient + j * width, g, u, inner(u, g, width), scale[j], width);
        }
        written();
    }
}
