"""Questions about a data set that frozen features and the closed-form probe answer, before anything is trained."""
