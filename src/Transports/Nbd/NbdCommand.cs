namespace Virtbus.Transports.Nbd;

/// <summary>What a request wants (NBD_CMD_*).</summary>
internal enum NbdCommand : ushort
{
    READ = 0,
    WRITE = 1,
    DISC = 2,
    FLUSH = 3,
    TRIM = 4,
    CACHE = 5,
    WRITE_ZEROES = 6,
    BLOCK_STATUS = 7,
}
