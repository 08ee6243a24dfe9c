using Virtbus.Pci;
using Virtbus.Platform;

namespace TallyCard;

/// <summary>Where the functions come from: <c>virtbus function plug NAME --provider tally --function card</c>.</summary>
internal sealed class TallyProvider : IPciFunctionProvider
{
    private const string Card = "card";

    public string Name => "tally";

    public IReadOnlyList<string> List() => [Card];

    public ValueTask<IPciFunction> OpenAsync(string name, CancellationToken cancellationToken = default) => name == Card
        ? ValueTask.FromResult<IPciFunction>(new TallyFunction())
        : throw new VirtbusException(Errno.ENOENT, $"'{name}' is no function of provider tally. There is: {Card}.");
}
