"""Template of the owner's TOML file: every key, with a comment."""

TEMPLATE = """\
# The file of one institution. fedkd-client reads it; nothing of it leaves this machine but what
# `fedkd-client card` prints. Paths are relative to this file.

name = "north"                      # as the coordinator knows you; must stand in your certificate

[teacher]                           # the model that answers
source = "trained"                  # trained here, on the images of [data]
model = "cnn"                       # a network of fedkd's, or sklearn:RandomForestClassifier; for
                                    # rows of a table table-mlp, or sklearn:GradientBoosting, ...
epochs = 40
batch = 32
learning_rate = 5e-3
weight_decay = 5e-4
seed = 0
# class_names = ["benign", "malignant"]   # what the classes of [data] are called
                                    # without it, the folders' names of folder:, else numbers
# task = "odd"                      # where institutions label different tasks: which one is yours
# A teacher that you have already, see docs/teachers.md and docs/tables.md, instead of all above:
#   source = "onnx:model.onnx"      # its .data beside it; or factory:package.module:function,
                                    # torchvision:NAME, timm:NAME, fedkd:NAME, pt2:FILE, skops:FILE,
                                    # xgboost:FILE, lightgbm:FILE, catboost:FILE, oip:URL
#   weights = "model.safetensors"   # of factory:, torchvision:, timm: and fedkd:
#   shape = [3, 64, 64]             # of the images that it reads: channels, height, width
#   class_names = ["benign", "malignant"]   # in the order of its outputs; or classes = 2
#   tasks = {odd = ["even", "odd"]} # in place of class_names, where institutions answer different
                                    # tasks: yours, each with its classes
#   mean = [0.5, 0.5, 0.5]          # it is given (image - mean) / std, where images are in [0, 1]
#   std = [0.25, 0.25, 0.25]
#   outputs = "probabilities"       # of one that ends in a softmax; else "logits", or "embedding"
#   schema = "schema.toml"          # of one that reads rows, in place of shape and class_names:
                                    # columns, their ranges and levels, and what is predicted. All
                                    # that stands in it is on your card, for everybody in the run:
                                    # write round ranges, not your data's own
# embedding = 32                    # trained to output an embedding so wide, and no classes
# voters = 100                      # of mode "pate": models, each trained on images of its own
# [teacher.private]                 # of mode "dp-teacher": trained with DP-SGD, in the place of
# epsilon = 3.0                     # epochs, batch and rates above; what is promised of an image,
# delta = 1e-5                      # well below one over the number of images
# clipping = 1.0                    # most that one image adds to a step
# sampling_rate = 0.05              # chance of an image to take part in a step
# accountant = "prv"                # prv or rdp
# [teacher.shrunk]                  # a narrower network answers, made of the one above by
# width = 0.5                       # `fedkd-client shrink`: share of the channels that it keeps
# images = 5                        # your own images of each class that make it
# steps = 150                       # of each block alone, and of each joining of blocks
# last_steps = 3000                 # of the whole narrow network, once its blocks are joined
# shift = 1                         # most pixels by which these are shifted while it learns
# mirrors = false                   # whether they are mirrored too
# [teacher.shrunk.private]          # of mode "dp-teacher": the keys of [teacher.private] again

[data]                              # private images; they never leave this machine
source = "digits"                   # digits, torchvision:NAME, folder:PATH, parquet:PATH, npz:PATH,
                                    # or rows of a CSV or Parquet file, table:PATH, whose schema,
                                    # beside it, is disclosed on your card
root = "."                          # folder to which PATH is relative
# To rehearse on data that several institutions share:
# index = 0                         # which share is yours, of
# count = 1                         # so many
# partition = "iid"                 # iid, dirichlet, shards or file
# alpha = 0.5                       # of dirichlet
# shards = 2                        # of shards
# partition_file = "partition.npz"  # of file
# partition_seed = 0
# tasks = ["odd"]                   # of data with several tasks: those that you label; none: all

[policy]                            # what may be asked; what is not named is refused
signals = ["logits"]                # logits, bn_gap, features, relations, activation
samples = 20000                     # most images ever answered, from whomever they come
samples_per_hour = 10000            # and most within any hour
largest_batch = 1024                # and in one query
pull_back = false                   # gradients of the signals: a release like any other
class_counts = false                # telling how many training images each class has
scores = false                      # telling how well a student does on your private test images;
                                    # not where numbers are predicted
examinations = 50                   # of how many students in all, if that is released
# hours = ["07:00", "19:00"]        # local time in which queries are answered
# servers = ["kd.example:9092"]     # coordinators that may be dialled; without it, the one below
# shape = [1, 8, 8]                 # images that are taken; without it, those the teacher reads
# low = 0.0                         # least value of a pixel, images in [0, 1]
# high = 1.0                        # greatest one
batch_statistics = false            # batch norm by the images of a query, where that is asked for
recipes = true                      # images may be named by a recipe and rendered here
# labels = true                     # only the class is released; this and the next two disclose
# top_k = 3                         # only the likeliest classes; less, and guarantee nothing
# rounding = 2                      # probabilities of so many decimal digits
# Differential privacy of the answers. "none": none. "dp-teacher": that of the training, so answers
# cost nothing more. "pate": noisy majority labels of the voters, charged to a budget. "local-dp":
# logits with noise that hides the whole data set, charged to a budget; for few queries only.
# mode = "none"
# noise = 40                        # of pate in votes, of local-dp in logits; without it, the least
                                    # with which the budget covers all samples
# clipping = 8.0                    # of local-dp: largest norm of an answer
# [policy.budget]                   # of all that is released about the data, to anybody, in any
# epsilon = 8.0                     # mode, for ever. dp-teacher can do without: then one training
# delta = 1e-5                      # is charged, and a second one refused

[connection]
server = "kd.example:9092"          # the coordinator; the agent dials out, nobody dials in
ca = "tls/ca.pem"                   # authority that signed the coordinator's certificate
certificate = "tls/north.pem"       # yours
key = "tls/north.key"               # chmod 600
token_file = "tls/token"            # chmod 600; without it sessions are opened by Flower alone
# insecure = true                   # instead of the TLS files, on this machine only

[state]
folder = "state"                    # ledger, teacher and lock; chmod 700
# socket = "control/agent.sock"     # for Flower's ClientApp; else agent.sock in the folder
# socket_group = "flower"           # who may use it, where Flower runs as another user
"""
