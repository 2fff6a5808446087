#include "dist/descriptor.h"

#include <unistd.h>

namespace longlora::dist {

void Descriptor::reset() {
  if (number_ >= 0) ::close(number_);
  number_ = -1;
}

}  // namespace longlora::dist
