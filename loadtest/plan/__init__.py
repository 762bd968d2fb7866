"""`florence plan`: arrivals, lengths and machines in; replicas over time, waiting and cost out.

Virtual time, one process, no Ray: the policy is production's own class, and the delays and means
that Ray Serve lays around it are written down here and held to Serve's own functions by a test.
"""
