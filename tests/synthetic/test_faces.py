"""Drawn faces: what depends on the person, what on the view."""
import numpy as np

from unequal.synthetic import faces

PLAIN = faces.View(
    yaw=0, pitch=0, roll=0, zoom=1, shift_x=0, shift_y=0, light_x=0, light_y=0, ambient=0.5,
    exposure=1, tint=(1, 1, 1), age=0.5, weight=0, haircut=0, shave=0.5, smile=0, mouth_open=0,
    brow_raise=0, eyes_shut=0, gaze=0, cover="none", blur=0, grain=0, seed=0)


def test_a_face_is_a_function_of_person_and_view():
    rng = np.random.default_rng(1)
    person, other = faces.sample_identity(rng), faces.sample_identity(rng)
    assert person.shape == (faces.LATENT,)
    for size in (16, 32, 112):
        picture = faces.draw_face(person, PLAIN, size)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        np.random.seed(0)
        assert (faces.draw_face(person, PLAIN, size) == picture).all()
        difference = np.abs(faces.draw_face(other, PLAIN, size).astype(int) - picture)
        assert difference.mean() > 5


def test_traits_and_view_do_what_they_say():
    """Means over people, so that no single face decides."""
    rng = np.random.default_rng(2)
    people = [faces.sample_identity(rng) for _ in range(12)]

    def mean(trait=None, value=None, **view):
        shown = [person.copy() for person in people]
        for person in shown:
            if trait is not None:
                person[faces.TRAITS.index(trait)] = value
        return np.mean([faces.draw_face(person, PLAIN._replace(**view)) for person in shown],
                       axis=0)

    centre = (slice(14, 20), slice(12, 20))  # cheeks and nose
    assert mean("skin_light", 2)[centre].mean() > mean("skin_light", -2)[centre].mean() + 40
    warm, cold = mean("skin_warm", 2)[centre], mean("skin_warm", -2)[centre]
    assert (warm - cold)[..., 0].mean() > 5 > -5 > (warm - cold)[..., 2].mean()  # RGB
    right, left = mean(light_x=2), mean(light_x=-2)
    assert (right - left)[:, 19:24].mean() > 10 > -10 > (right - left)[:, 8:13].mean()
    assert mean(exposure=1.5)[centre].mean() > mean(exposure=0.7)[centre].mean() + 40
    # Turning one way is the mirror of turning the other, for a symmetric person.
    symmetric = np.zeros(faces.LATENT)
    turned = [faces.draw_face(symmetric, PLAIN._replace(yaw=yaw), 64).astype(int)[16:48, 20:44]
              for yaw in (-40, 40)]
    assert np.abs(turned[0] - turned[1][:, ::-1]).mean() < 4
    assert np.abs(turned[0] - turned[1]).mean() > 12


def test_situations():
    rng = np.random.default_rng(0)
    views = {name: [faces.sample_view(rng, name) for _ in range(200)] for name in faces.SITUATIONS}
    yaw = {name: np.abs([view.yaw for view in drawn]) for name, drawn in views.items()}
    assert 45 <= yaw["profile"].min() and yaw["profile"].max() <= 70
    assert len({np.sign(view.yaw) for view in views["profile"]}) == 2
    assert yaw["front"].mean() < yaw["frontal"].mean() < yaw["any"].mean() < 45
    assert max(view.age for view in views["young"]) < 0.25
    assert min(view.age for view in views["old"]) > 0.75


def test_clutter():
    rng = np.random.default_rng(0)
    one, other = faces.draw_clutter(rng, 40), faces.draw_clutter(rng, 40)
    assert one.shape == (40, 40, 3) and one.dtype == np.uint8 and (one != other).any()
