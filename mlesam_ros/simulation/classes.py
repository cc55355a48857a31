"""Ids of the DELIVER classes that occur in the simulated street."""

from __future__ import annotations

from mlesam_ros.labels import load_label_space

DELIVER = load_label_space("deliver")
_ID = {name: number for number, name in enumerate(DELIVER.names)}

BUILDING = _ID["Building"]
FENCE = _ID["Fence"]
PEDESTRIAN = _ID["Pedestrian"]
POLE = _ID["Pole"]
ROAD_LINE = _ID["RoadLine"]
ROAD = _ID["Road"]
SIDEWALK = _ID["SideWalk"]
VEGETATION = _ID["Vegetation"]
CARS = _ID["Cars"]
WALL = _ID["Wall"]
TRAFFIC_SIGN = _ID["TrafficSign"]
SKY = _ID["Sky"]
TRAFFIC_LIGHT = _ID["TrafficLight"]
STATIC = _ID["Static"]
TERRAIN = _ID["Terrain"]
TWO_WHEELER = _ID["TwoWheeler"]
BUS = _ID["Bus"]
TRUCK = _ID["Truck"]
