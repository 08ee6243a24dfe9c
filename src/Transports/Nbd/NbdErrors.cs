using Virtbus.Platform;

namespace Virtbus.Transports.Nbd;

/// <summary>What an error of a back end is to a client.</summary>
internal static class NbdErrors
{
    internal static NbdError Of(Errno error) => error switch
    {
        Errno.None => NbdError.None,
        Errno.EPERM or Errno.EACCES or Errno.EROFS => NbdError.EPERM,
        Errno.ENOMEM => NbdError.ENOMEM,
        Errno.EINVAL or Errno.EOPNOTSUPP => NbdError.EINVAL,
        Errno.ENOSPC or Errno.EFBIG or Errno.EDQUOT => NbdError.ENOSPC,
        Errno.ENODEV or Errno.ECANCELED => NbdError.ESHUTDOWN,
        _ => NbdError.EIO,
    };
}
