"""The commands of ``arn-train``, a file each: ``add_parser`` declares its flags, ``run`` carries it out."""
