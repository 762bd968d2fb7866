"""The autoscaling in virtual time: requests in; replicas over time, waiting and GPU hours out.

One process, no Ray: the policy is production's own class, and the delays and means that Ray Serve
lays around it are written down here and held to Serve's own functions by a test.
"""
