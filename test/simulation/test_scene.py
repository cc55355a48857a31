# SPDX-License-Identifier: Apache-2.0
"""Ray casting over two layers, against known geometry."""

import numpy as np

from mlesam_ros.simulation.scene import Instance, Label, Layer, Material, Snapshot, box, join, merge, place, rod


def at(x, label=Label.CARS, material=Material.PAINT, seed=0.25):
    return Instance(box((1, 1, 1), (0, 0, 0), material, label), x, 0.0, 0.0, 0.0, seed)


def ahead(count=1):
    return np.zeros(3, np.float32), np.tile(np.float32([1, 0, 0]), (count, 1))


def test_nearest_hit_of_both_layers_wins():
    for still, moving, expected in ((5.0, 8.0, Label.CARS), (8.0, 5.0, Label.BUS)):
        layers = [Layer(place([at(still)]), 1), Layer(place([at(moving, Label.BUS)]), 1)]
        hits = Snapshot(layers).cast(*ahead())
        assert hits.classes.tolist() == [expected]
        assert np.allclose(hits.distance, 4.5) and np.allclose(hits.point, [[4.5, 0, 0]])
        assert np.allclose(hits.normal, [[-1, 0, 0]])


def test_hits_are_sorted_by_material_without_misses():
    things = [at(5.0, material=Material.SIGN), at(5.0, material=Material.GROUND), at(5.0, material=Material.LEAF)]
    things = [Instance(t.mesh, 5.0, 3.0 * n, 0.0, 0.0, n / 4) for n, t in enumerate(things)]
    directions = np.float32([[5, 0, 0], [5, 3, 0], [5, 6, 0], [-1, 0, 0]])
    hits = Snapshot([Layer(place(things), 1)]).cast(np.zeros(3, np.float32), directions)
    assert hits.ray.tolist() == [1, 2, 0]
    assert hits.material.tolist() == sorted(hits.material.tolist())
    assert np.isinf(hits.distance[3])
    assert hits.rows[:, 5].tolist() == [0.25, 0.5, 0.0]


def test_both_layers_cast_shadows():
    points = np.float32([[0, 0, 0], [0, 5, 0]])
    for layers in ([at(5.0)], []), ([], [at(5.0)]):
        snapshot = Snapshot([Layer(place(layer), 1) for layer in (*layers, [at(50.0)])])
        assert snapshot.occluded(points, np.float32([1, 0, 0])).tolist() == [True, False]


def test_merged_triangles_keep_their_instance():
    batch = merge([place([at(1.0, seed=0.1)]), place([at(2.0, seed=0.2), at(3.0, seed=0.3)])])
    seeds = batch.table[batch.instance, 5]
    centers = batch.vertices[batch.triangles].mean(axis=1)[:, 0]
    assert np.all(np.abs(centers - seeds * 10) <= 0.51)


def test_instance_is_rotated_and_swings():
    mesh = join([rod((1, 0, 0), (1, 0, 1), (0.1, 0.1), Material.SKIN, Label.PEDESTRIAN)])
    placed = place([Instance(mesh, 10.0, 20.0, 1.0, np.pi / 2, 0.5)])
    assert np.allclose(placed.vertices.mean(axis=0), [10, 21, 1.5], atol=1e-5)
