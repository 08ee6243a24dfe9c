namespace Virtbus.Transports.Nbd;

/// <summary>How a request failed, as the protocol says it (NBD_E*): the only values that go to a client.</summary>
internal enum NbdError : uint
{
    None = 0,
    EPERM = 1,
    EIO = 5,
    ENOMEM = 12,
    EINVAL = 22,
    ENOSPC = 28,
    EOVERFLOW = 75,
    ENOTSUP = 95,
    ESHUTDOWN = 108,
}
