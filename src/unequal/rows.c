/* The operator unit_rows (operators.py): one pass over memory in each direction. Built when the
   package is installed, where there is a C compiler. */
#include <math.h>
#include <stddef.h>

static float inner(const float *a, const float *b, size_t width)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < width; i++)
        sum += a[i] * b[i];
    return sum;
}

void unit_forward(const float *weight, float *restrict unit, float *restrict scale, size_t rows,
                  size_t width, float epsilon)
{
#pragma omp parallel for
    for (size_t j = 0; j < rows; j++) {
        const float *w = weight + j * width;
        float *u = unit + j * width, factor = 1 / sqrtf(inner(w, w, width) + epsilon);
        scale[j] = factor;
        for (size_t i = 0; i < width; i++)
            u[i] = w[i] * factor;
    }
}

void unit_backward(const float *unit, const float *scale, const float *outer,
                   float *restrict gradient, size_t rows, size_t width)
{
#pragma omp parallel for
    for (size_t j = 0; j < rows; j++) {
        const float *u = unit + j * width, *g = outer + j * width;
        float *restrict target = gradient + j * width, along = inner(u, g, width);
        for (size_t i = 0; i < width; i++)
            target[i] = (g[i] - along * u[i]) * scale[j];
    }
}
